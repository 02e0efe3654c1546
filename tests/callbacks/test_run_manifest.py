"""A run's manifest says what it was made of, the engine included, where and when it ran, and how it ended."""

import contextlib
import json
from datetime import datetime

import pytest
from lightning.pytorch.loggers import CSVLogger

from callbacks import RunManifest
from gigpo_lightning.errors import Preempted
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


class Ending(ScriptedSync):
    """Ends a run by an error when its first epoch is over."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error

    def on_train_epoch_end(self, trainer, pl_module):
        if self.error is not None:
            raise self.error


def manifest(tmp_path, engine_of=random_walk, error: BaseException | None = None, own=None) -> dict:
    module = tiny_module()
    trainer = quiet_trainer(
        tmp_path, Ending(error), own or RunManifest(), logger=CSVLogger(tmp_path), max_epochs=1, limit_val_batches=0
    )
    with pytest.raises((type(error), SystemExit)) if error is not None else contextlib.nullcontext():
        trainer.fit(module, walking_data(engine_of(module)))
    return json.loads((tmp_path / trainer.log_dir / "manifest.json").read_text())


def test_it_names_the_engine_and_the_versions(tmp_path):
    found = manifest(tmp_path)
    assert found["engine"] == {"class": "ScriptedEngine"}
    assert {"torch", "lightning"} <= found["versions"].keys()


def test_it_names_the_attention_that_the_policy_computes_with(tmp_path):
    assert manifest(tmp_path)["attention"] == {"name": "token_trees", "shares_beginnings": True}


def test_it_says_where_and_when_the_run_was(tmp_path):
    found = manifest(tmp_path)
    assert found["end"] == "finished"
    assert datetime.fromisoformat(found["started"]) <= datetime.fromisoformat(found["ended"])
    assert found["devices"].items() >= {"kind": "cpu", "number": 1, "machines": 1}.items()
    assert {"command", "host"} <= found.keys()
    assert "config" not in found  # a run of Python has no config.yaml


def test_what_only_the_engine_s_start_decides_is_in_it(tmp_path):
    def telling(module):
        engine = random_walk(module)
        engine.details = lambda: {"model_runner": "V2"} if engine.policy_version >= 0 else {}
        return engine

    assert manifest(tmp_path, telling)["engine"] == {"class": "ScriptedEngine", "model_runner": "V2"}


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (ValueError("no more"), "failed: ValueError: no more"),
        (Preempted("epoch 1 was not begun"), "preempted"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_a_run_that_does_not_finish_says_how_it_ended(tmp_path, error, end):
    found = manifest(tmp_path, error=error)
    assert found["end"] == end
    assert "ended" in found


@pytest.mark.slow
def test_a_run_that_goes_on_lists_the_starts_before_its_own(tmp_path):
    first, second = RunManifest(), RunManifest()
    started = manifest(tmp_path, own=first)["started"]
    second.load_state_dict(first.state_dict())
    (earlier,) = manifest(tmp_path, own=second)["earlier_starts"]
    assert earlier["started"] == started
    assert len(second.state_dict()["starts"]) == 2
