"""What an epoch's rollout was like: figures per episode, anchor groups, times and memory."""

import json
import multiprocessing
import time

import numpy as np
import pytest
from lightning.pytorch import Callback

from callbacks import AnchorStats, HeldOutEvaluation, RolloutMetrics
from callbacks.rollout_metrics import resident_gib
from gigpo_lightning.environments.gridworld import GridworldEnvironment
from gigpo_lightning.rollout import ScriptedEngine
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


class Keeper(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        self.rollout = trainer.datamodule.experience


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The rollout of one epoch, and what was logged of it."""
    module, keeper = tiny_module(), Keeper()
    trainer = quiet_trainer(
        tmp_path_factory.mktemp("run"),
        *(ScriptedSync(), AnchorStats(), RolloutMetrics(), keeper),
        max_epochs=1,
        limit_val_batches=0,
    )
    trainer.fit(module, walking_data(random_walk(module), max_steps=6))
    return keeper.rollout, {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_a_long_episode_counts_no_more_than_a_short_one(run):
    rollout, logged = run
    episodes = list(rollout.trajectories())
    lengths = [len(episode.steps) for episode in episodes]
    assert len(set(lengths)) > 1  # or a mean over steps would be the same
    assert logged["rollout/success_rate"] == pytest.approx(np.mean([episode.success for episode in episodes]))
    assert logged["rollout/episode_length"] == pytest.approx(np.mean(lengths))
    assert logged["rollout/return"] == pytest.approx(np.mean([episode.episode_return for episode in episodes]))


def test_an_environments_own_figures_are_means_over_the_episodes_that_have_them(tmp_path):
    module, keeper = tiny_module(), Keeper()
    trainer = quiet_trainer(tmp_path, ScriptedSync(), RolloutMetrics(), HeldOutEvaluation(), keeper, max_epochs=1)
    trainer.fit(module, walking_data(random_walk(module), environment=Pedometer(), held_out_splits=["valid_seen"]))
    episodes = list(keeper.rollout.trajectories())
    assert trainer.callback_metrics["rollout/moves"] == pytest.approx(np.mean([len(each.steps) for each in episodes]))
    reached = [each.metrics["moves_to_goal"] for each in episodes if each.success]
    assert 0 < len(reached) < len(episodes)
    assert trainer.callback_metrics["rollout/moves_to_goal"] == pytest.approx(np.mean(reached))
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    moves = [line["metrics"]["moves"] for line in lines]
    assert moves == [line["steps"] for line in lines]
    assert trainer.callback_metrics["held_out/valid_seen/moves"] == pytest.approx(np.mean(moves))


def test_a_run_says_once_why_nothing_is_learnt(tmp_path, caplog):
    module = tiny_module()
    goal = module.policy.tokenizer.encode("goal")
    data = walking_data(ScriptedEngine(lambda request: [*goal, module.policy.tokenizer.end_token_id]))
    trainer = quiet_trainer(tmp_path, ScriptedSync(), RolloutMetrics(), max_epochs=2, limit_val_batches=0)
    trainer.fit(module, data)
    said = [record.getMessage() for record in caplog.records if "of the replies are invalid" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(
        "epoch 0: 100 % of the replies are invalid, 100 % because of 'not a move'; one of them is"
    )


class Pedometer(GridworldEnvironment):
    """Counts the moves of an episode, and once more those of an episode that ends well."""

    def reset(self, *, seed=None, options=None):
        self._moves = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self._moves += 1
        *outcome, info = super().step(action)
        info["metrics"] = {"moves": self._moves} | ({"moves_to_goal": self._moves} if info["success"] else {})
        return *outcome, info


def test_the_anchor_groups_are_those_of_the_credit(run):
    rollout, logged = run
    sizes = np.bincount(rollout.credit.step_group_id)
    assert logged["anchors/group_size_mean"] == pytest.approx(sizes.mean())
    assert logged["anchors/singleton_fraction"] == pytest.approx((sizes == 1).sum() / len(rollout.table))


def test_the_parts_of_an_iteration_are_no_longer_than_the_whole(run):
    _, logged = run
    parts = sum(logged[f"time/{name}"] for name in ("rollout", "credit", "update"))
    assert 0 < parts <= logged["time/iteration"]
    inside = logged["time/rollout_engine"] + logged["time/rollout_environment"]
    assert 0 < inside <= logged["time/rollout"]


def test_resident_memory_counts_the_workers():
    alone = resident_gib()
    worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    worker.start()
    deadline = time.monotonic() + 300
    while resident_gib() < alone + 0.005 and time.monotonic() < deadline:
        time.sleep(0.05)
    together = resident_gib()
    worker.terminate()
    worker.join()
    assert together > alone + 0.005
