"""A metric that is never logged is not watched, and the message names some that are."""

import re

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from gigpo_lightning.monitors import check_monitors, missing_metric


class Data:
    """Of a run that plays one split."""

    held_out_splits = ("seen",)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("val_success", "there are held_out/seen/success_rate, rollout/success_rate"),
        ("rolout/return", "did you mean rollout/return"),
        ("held_out/unseen/success_rate", "held_out/seen/success_rate"),
    ],
)
def test_a_name_that_nothing_logs_is_refused_with_some_that_are(name, meant):
    with pytest.raises(
        ValueError, match=re.escape(f"monitor of EarlyStopping must name a metric that the run logs, got {name!r}")
    ) as e:
        check_monitors([EarlyStopping(monitor=name)], None, Data)
    assert meant in str(e.value)


@pytest.mark.parametrize(
    "name", ["held_out/seen/kind/success_rate", "rollout/score", "success", "epoch", "scores/mine"]
)
def test_what_may_be_logged_is_left_to_the_run(name):
    check_monitors([ModelCheckpoint(monitor=name)], None, Data)


def test_what_a_scheduler_watches_is_looked_at_too():
    with pytest.raises(
        ValueError, match=r"model\.init_args\.lr_scheduler\.init_args\.monitor must name .*, got 'loss'"
    ):
        check_monitors([], None, Data, "loss")


def test_a_class_of_a_user_s_own_may_log_any_name():
    class Mine:
        pass

    check_monitors([EarlyStopping(monitor="val_success"), Mine()], None, Data)


def test_what_lightning_says_of_a_missing_metric_becomes_one_line():
    said = (
        "Early stopping conditioned on metric `rollout/sucess_rate` which is not available. Pass in or modify your "
        "`EarlyStopping` callback to use any of the following: `loss/kl`, `rollout/success_rate`"
    )
    line = "monitor must name a metric that the run logs, got 'rollout/sucess_rate'; did you mean rollout/success_rate?"
    assert missing_metric(RuntimeError(said)) == line
    assert missing_metric(RuntimeError("another error")) == ""
