"""The charts of the Custom Scalars tab."""

import re

import pytest

from gigpo_lightning.figures import scalar_layout

PATTERNS = [pattern for charts in scalar_layout().values() for _, patterns in charts.values() for pattern in patterns]


def test_the_groups_are_the_four_that_a_reader_asks_for():
    assert list(scalar_layout()) == ["learning", "credit", "engine", "time"]


@pytest.mark.parametrize(
    "tag",
    [
        "rollout/success_rate",
        "rollout/return",
        "rollout/episode_length",
        "rollout/invalid_action_rate",
        "rollout/problems/no_action_tags",
        "rollout/reply_length_mean",
        "rollout/uniform_group_fraction",
        "rollout/tokens_per_second",
        "held_out/valid_seen/success_rate",
        "held_out/valid_seen/problems/no_action_tags",
        "held_out/valid_seen/near/success_rate",
        "anchors/group_size_mean",
        "anchors/group_size_share/1",
        "anchors/group_size_share/over_50",
        "anchors/nonzero_step_advantage_fraction",
        "anchors/step_to_episode_ratio",
        "loss/policy",
        "loss/kl",
        "loss/entropy",
        "loss/clip_fraction",
        "sync/max_abs_logprob_error",
        "sync/mean_abs_logprob_error",
        "sync/p99_abs_logprob_error",
        "sync/seconds",
        "time/rollout",
        "time/credit",
        "time/update",
        "time/iteration",
        "update/tokens",
        "update/distinct_tokens",
        "update/sharing",
    ],
)
def test_a_scalar_of_the_contract_has_a_chart(tag: str):
    assert any(re.match(pattern, tag) for pattern in PATTERNS)


def test_a_pattern_matches_no_longer_tag():
    matching = [pattern for pattern in PATTERNS if re.match(pattern, "rollout/success_rate_of_something")]
    assert matching == []


def test_success_by_kind_is_not_mixed_with_success_of_all():
    charts = scalar_layout()["learning"]
    ((of_all,), (by_kind,)) = (
        charts[name][1] for name in ("success on held-out tasks", "success on held-out tasks, by kind")
    )
    assert re.match(of_all, "held_out/valid_seen/success_rate")
    assert not re.match(of_all, "held_out/valid_seen/near/success_rate")
    assert not re.match(by_kind, "held_out/valid_seen/success_rate")


def test_every_layout_is_the_caller_s_own():
    scalar_layout()["learning"].clear()
    assert scalar_layout()["learning"]
