"""An engine that sleeps while the policy is updated."""

import pytest

from callbacks import WeightSync
from gigpo_lightning.rollout import ScriptedEngine
from tests.scripted_run import quiet_trainer, random_walk, tiny_module, walking_data


class Sleeper(ScriptedEngine):
    """Forgets its weights in its sleep, as vLLM does, and does nothing else until it wakes."""

    def __init__(self, module):
        super().__init__(random_walk(module).script)
        self.module = module
        self.asleep = False
        self.log = []

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

    def score(self, pairs):
        return [[float("nan")] * len(completion) for _, completion in pairs]


@pytest.fixture
def trusting(monkeypatch):
    """A script has no weights to compare."""
    monkeypatch.setattr("callbacks.weight_sync.probe_error", lambda *_: 0.0)


def run(folder, sync, **options):
    module = tiny_module()
    engine = Sleeper(module)
    quiet_trainer(folder, sync, max_epochs=2, **options).fit(module, walking_data(engine, minibatch_size=1000))
    return engine.log


def test_it_wakes_before_each_rollout_and_is_given_the_weights_anew(tmp_path, trusting):
    assert run(tmp_path, WeightSync(sleep=True), limit_val_batches=0) == [0, "sleep", "wake", 1, "sleep"]


def test_an_evaluation_wakes_it_and_the_rollout_after_it_finds_it_awake(tmp_path, trusting):
    log = run(tmp_path, WeightSync(sleep=True))
    assert log == [0, "sleep", "wake", 1, "sleep", "wake", 2]


def test_unless_it_is_asked_to_it_never_sleeps(tmp_path, trusting):
    assert run(tmp_path, WeightSync(), limit_val_batches=0) == [0, 1]


def test_new_weights_are_proved_after_every_sleep(tmp_path, monkeypatch):
    errors = iter([0.0, 1.0])
    monkeypatch.setattr("callbacks.weight_sync.probe_error", lambda *_: next(errors))
    with pytest.raises(RuntimeError, match="to version 1, trainer and engine must agree"):
        run(tmp_path, WeightSync(sleep=True), limit_val_batches=0)


def test_a_run_that_broke_off_while_the_engine_slept_does_not_spoil_the_next(tmp_path, trusting):
    module = tiny_module()
    engine = Sleeper(module)
    engine.load_weights([], 0)
    engine.sleep()
    data = walking_data(engine, minibatch_size=1000)
    quiet_trainer(tmp_path, WeightSync(), max_epochs=1, limit_val_batches=0).fit(module, data)
    assert engine.log == [0, "sleep", "wake", 0]
