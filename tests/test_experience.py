"""What is learnt from: scores before credit, and figures of an epoch."""

import math

import numpy as np
import pytest

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.experience import Experience, score_means
from gigpo_lightning.rollout.group_sampler import PlayedGroups
from gigpo_lightning.rollout.progress import RolloutProgress
from gigpo_lightning.scorers import IdleActions, SampledEntropy
from gigpo_lightning.trajectory import StepTable, TrajectoryGroup
from tests.episodes import step, trajectory
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data

GROUPS = [
    TrajectoryGroup(
        task_id="t",
        trajectories=(
            trajectory(step([1], [2, 3], logprobs=(-1.0, -2.0)), episode_index=0),
            trajectory(step([1], [2], logprobs=(-0.5,), reward=1.0), step([4], [], logprobs=()), episode_index=1),
        ),
    )
]


class Asks:
    """Scores every step by its number, and remembers whom it could have asked."""

    def score(self, groups, policy):
        self.policy = policy
        return {"place": [float(place) for place in range(sum(len(t.steps) for g in groups for t in g.trajectories))]}


def experience(*scorers, policy=None):
    progress = RolloutProgress(name="epoch 0", total=2)
    played = PlayedGroups(groups=tuple(GROUPS), progress=progress, seconds=1.0)
    return Experience.of(played, GiGPO(), epoch=0, scorers=scorers, policy=policy)


def test_the_entropy_of_a_reply_is_minus_its_mean_log_probability():
    assert SampledEntropy().score(GROUPS, None)["sampled_entropy"][:2] == [1.5, 0.5]
    assert math.isnan(SampledEntropy().score(GROUPS, None)["sampled_entropy"][2])


def test_idle_actions_are_found_by_what_was_done_and_by_what_the_world_said_to_it():
    said = ["a hall", "a table with a lamp", "You see nothing special.", "Nothing happens.", "a kitchen"]
    done = ["look", "examine table 1", "eat lamp", "go to kitchen 1", "take look 1"]
    steps = [step(observation=words, action=action) for words, action in zip(said, done, strict=True)]
    played = [TrajectoryGroup(task_id="t", trajectories=(trajectory(*steps, final_observation="Nothing happens."),))]
    assert IdleActions().score(played, None) == {"idle": [1.0, 1.0, 1.0, 0.0, 1.0]}
    assert IdleActions(actions="go.*", observations="^$").score(played, None) == {"idle": [0.0, 0.0, 0.0, 1.0, 0.0]}


def test_an_expression_of_idle_actions_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"actions must be a regular expression, got '\(': "):
        IdleActions(actions="(")


def test_scores_reach_the_table_and_the_log():
    made = experience(SampledEntropy(), Asks())
    assert made.table.scores["place"].tolist() == [0.0, 1.0, 2.0]
    metrics = made.metrics()
    assert metrics["scores/sampled_entropy"] == 1.0  # the step without tokens has none
    assert metrics["scores/place"] == 1.0


def test_a_score_that_only_some_ranks_have_is_averaged_over_their_steps():
    by_rank = [{"progress": (3.0, 2)}, {}, {"progress": (1.0, 2), "praise": (0.0, 0)}]
    assert score_means(by_rank) == {"scores/progress": 1.0, "scores/praise": 0.0}


def test_without_scorers_there_are_no_scores():
    assert dict(experience().table.scores) == {}
    assert not any(name.startswith("scores/") for name in experience().metrics())


def test_a_scorer_may_ask_what_played(tmp_path):
    module, asks = tiny_module(), Asks()
    engine = random_walk(module)
    data = walking_data(engine, scorers=[asks])
    quiet_trainer(tmp_path, ScriptedSync(), max_epochs=1, limit_val_batches=0).fit(module, data)
    assert asks.policy is engine
    assert "place" in data.experience.table.scores


class WantsScores(GiGPO):
    def estimate(self, table):
        assert len(table.scores["sampled_entropy"]) == len(table)
        return super().estimate(table)


@pytest.mark.slow
def test_an_estimator_that_wants_scores_finds_them_in_evaluations_too(tmp_path):
    module = tiny_module()
    module.credit = WantsScores()
    data = walking_data(
        random_walk(module), scorers=[SampledEntropy()], held_out_splits=["valid_seen"], held_out_repeats=2
    )
    trainer = quiet_trainer(tmp_path, ScriptedSync(), max_epochs=1)
    trainer.fit(module, data)
    trainer.predict(module, data)


def test_scores_follow_their_rows():
    table = StepTable.from_groups(GROUPS, {"place": [0.0, 1.0, 2.0]})
    assert table.take(np.array([2, 0])).scores["place"].tolist() == [2.0, 0.0]
    backwards = table.take(np.array([2, 1, 0]))
    assert backwards.in_visit_order()[0].scores["place"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], r"scores\['place'\] must be 3 numbers, one a row, got float64 \(2,\)"),
        ([1.0, math.inf, 2.0], r"scores\['place'\] must be finite or not a number, got inf in row 1"),
    ],
)
def test_scores_that_are_none_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        StepTable.from_groups(GROUPS, {"place": values})
