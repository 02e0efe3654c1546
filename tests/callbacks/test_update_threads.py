"""More threads for the update, and no more for the rollout."""

import pytest
import torch

from callbacks import UpdateThreads
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_only_the_update_has_them(tmp_path, one_thread):
    module = tiny_module()
    engine = random_walk(module)
    seen = {"update": set(), "rollout": set()}
    script = engine.script
    engine.script = lambda request: seen["rollout"].add(torch.get_num_threads()) or script(request)
    module.policy.register_forward_pre_hook(lambda *_: seen["update"].add(torch.get_num_threads()))
    trainer = quiet_trainer(tmp_path, ScriptedSync(), UpdateThreads(2), max_epochs=2, limit_val_batches=0)
    trainer.fit(module, walking_data(engine, minibatch_size=16))
    assert seen == {"update": {2}, "rollout": {1}}
    assert torch.get_num_threads() == 1


def test_the_default_is_what_the_user_allows(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert UpdateThreads().num_threads == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert UpdateThreads().num_threads == 5


def test_no_thread_is_refused():
    with pytest.raises(ValueError, match="num_threads must be >= 1, got 0"):
        UpdateThreads(0)
