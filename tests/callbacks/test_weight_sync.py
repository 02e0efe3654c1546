"""An engine that sleeps while the policy is updated, and one that does not take what it is sent."""

import logging

import pytest
import torch

from callbacks import WeightSync
from gigpo_lightning.engines.weight_proof import show_tensors
from gigpo_lightning.errors import RunError
from gigpo_lightning.rollout import ScriptedEngine
from gigpo_lightning.token_batch import make_token_batch
from gigpo_lightning.token_trees import RowRules, in_rows, token_trees
from tests.scripted_run import quiet_trainer, random_walk, tiny_module, walking_data


class Sleeper(ScriptedEngine):
    """Keeps weights that it never computes with, in a type of its own; forgets them in its sleep, as vLLM does."""

    def __init__(self, module, dtype=torch.float32):
        super().__init__(random_walk(module).script)
        self.weights = {name: torch.zeros_like(weight, dtype=dtype) for name, weight in module.named_weights()}
        self.asleep = False
        self.log = []
        self.deaf_from = 1 << 20

    def sleep(self):
        assert not self.asleep
        self.asleep, self._version = True, -1
        self.log.append("sleep")

    def wake(self):
        if self.asleep:
            self.log.append("wake")
        self.asleep = False

    def submit(self, request):
        assert not self.asleep
        super().submit(request)

    def load_weights(self, named_tensors, version):
        assert not self.asleep
        super().load_weights(named_tensors, version)
        self.log.append(version)
        for name, tensor in named_tensors:
            if version < self.deaf_from or name != "model.norm.weight":
                self.weights[name] = tensor.clone()

    def show_weights(self, shapes, seed):
        return show_tensors(self.weights, shapes, seed)


def run(folder, sync, deaf_from=1 << 20, **options):
    module = tiny_module()
    engine = Sleeper(module)
    engine.deaf_from = deaf_from
    quiet_trainer(folder, sync, max_epochs=2, **options).fit(module, walking_data(engine, minibatch_size=1000))
    return engine.log


def test_it_wakes_before_each_rollout_and_is_given_the_weights_anew(tmp_path):
    assert run(tmp_path, WeightSync(sleep=True), limit_val_batches=0) == [0, "sleep", "wake", 1, "sleep"]


@pytest.mark.slow
def test_an_evaluation_wakes_it_and_the_rollout_after_it_finds_it_awake(tmp_path):
    log = run(tmp_path, WeightSync(sleep=True))
    assert log == [0, "sleep", "wake", 1, "sleep", "wake", 2]


def test_unless_it_is_asked_to_it_never_sleeps(tmp_path):
    assert run(tmp_path, WeightSync(), limit_val_batches=0) == [0, 1]


def test_new_weights_are_proved_after_every_sleep(tmp_path):
    with pytest.raises(
        RunError, match=r"to version 1, .* bit by bit, but model\.norm\.weight differ: the engine does not"
    ):
        run(tmp_path, WeightSync(sleep=True), deaf_from=1, limit_val_batches=0)


def test_a_run_that_broke_off_while_the_engine_slept_does_not_spoil_the_next(tmp_path):
    module = tiny_module()
    engine = Sleeper(module)
    engine.load_weights([], 0)
    engine.sleep()
    data = walking_data(engine, minibatch_size=1000)
    quiet_trainer(tmp_path, WeightSync(), max_epochs=1, limit_val_batches=0).fit(module, data)
    assert engine.log == [0, "sleep", "wake", 0]


def test_an_engine_that_was_not_proved_is_synced_again():
    module = tiny_module()
    engine, sync = Sleeper(module), WeightSync()
    engine.deaf_from = 0
    for _ in range(2):
        with pytest.raises(RunError, match="bit by bit"):
            sync.sync(module, engine)
    engine.deaf_from = 1
    sync.sync(module, engine)
    assert engine.log == [0, 0, 0]


def test_weights_come_in_the_type_that_the_engine_keeps_them_in():
    module = tiny_module()
    engine = Sleeper(module, torch.bfloat16)
    WeightSync().sync(module, engine)
    assert {tensor.dtype for tensor in engine.weights.values()} == {torch.bfloat16}


def test_an_engine_that_computes_otherwise_with_the_right_weights_only_warns(caplog):
    module = tiny_module()
    sync = WeightSync()
    with caplog.at_level(logging.WARNING):
        sync.sync(module, Sleeper(module))  # a script is certain of every token
    assert "computes with them otherwise" in caplog.text
    mean, p99, most = (sync.metrics[f"sync/{name}_abs_logprob_error"] for name in ("mean", "p99", "max"))
    assert 0.5 < mean < p99 < most


class Near(Sleeper):
    """Says of every token what the policy says, and .2 nats more: as far as an engine in bfloat16 may be off."""

    def __init__(self, module):
        super().__init__(module)
        self.module = module

    def score(self, pairs):
        rows = in_rows(token_trees(pairs), RowRules(shared=False))
        return (self.module.score(make_token_batch(pairs, 0, rows))[0] + 0.2).tolist()


def test_an_engine_as_near_as_another_type_of_number_lets_it_be_is_no_news(caplog):
    module, sync = tiny_module(), WeightSync()
    with caplog.at_level(logging.WARNING):
        sync.sync(module, Near(module))
    assert sync.metrics["sync/mean_abs_logprob_error"] == pytest.approx(0.2, abs=1e-4)
    assert caplog.text == ""


def test_an_engine_that_shows_nothing_is_refused():
    module = tiny_module()
    with pytest.raises(ValueError, match=r"engine must show its weights .*, got ScriptedEngine"):
        WeightSync().sync(module, random_walk(module))
