"""Real vLLM servers that are killed in the middle of a rollout."""

import pytest
import torch

from callbacks import WeightSync
from gigpo_lightning.errors import RunError
from gigpo_lightning.rollout import ServerTimeouts, VLLMServerEngine
from tests.engines.real_server import real_server
from tests.scripted_run import quiet_trainer, tiny_module, walking_data

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


class KilledAfter(VLLMServerEngine):
    """Kills the next of some servers once so many replies have come."""

    def __init__(self, servers, replies: int) -> None:
        super().__init__([server.url for server in servers], timeouts=ServerTimeouts(reply=60.0, weights=60.0))
        self.doomed = list(servers)
        self.replies = replies
        self.seen = 0

    def poll_unless(self, ready):
        completions = super().poll_unless(ready)
        before, self.seen = self.seen, self.seen + len(completions)
        if self.doomed and before < self.replies <= self.seen:
            self.doomed.pop(0).kill()
        return completions


def test_a_run_outlives_one_of_two_servers_and_ends_with_the_cause_when_the_last_is_gone(tmp_path, caplog):
    module = tiny_module(hidden_size=64)  # vLLM on CPUs wants heads that are 32 wide
    module.policy.model.config.save_pretrained(tmp_path / "model")
    with real_server(tmp_path / "model") as first, real_server(tmp_path / "model") as second:
        engine = KilledAfter([first, second], replies=20)
        data = walking_data(engine, tasks_per_epoch=8)
        trainer = quiet_trainer(tmp_path, WeightSync(), max_epochs=1)
        before = torch.nn.utils.parameters_to_vector(module.policy.parameters()).clone()
        trainer.fit(module, data)
        played = data.experience
        episodes = list(played.trajectories())
        assert (len(episodes), played.played.progress.finished, played.played.progress.dropped) == (32, 32, 0)
        assert played.played.progress.steps == sum(len(episode.steps) for episode in episodes)
        assert {step.policy_version for episode in episodes for step in episode.steps} == {0}
        assert [server.url for server in engine.replicas] == [second.url]
        assert f"the vLLM server {first.url}" in caplog.text
        assert not torch.equal(before, torch.nn.utils.parameters_to_vector(module.policy.parameters()))

        engine.seen = 0
        with pytest.raises(RunError, match=f"no vLLM server is left: .*{second.url}"):
            quiet_trainer(tmp_path, WeightSync(), max_epochs=1).fit(module, walking_data(engine, tasks_per_epoch=8))
        engine.close()
