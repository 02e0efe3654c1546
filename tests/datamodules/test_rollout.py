"""Fresh rollouts, each played exactly once, and never on an engine with other weights."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from datamodules import RolloutDataModule
from gigpo_lightning.algorithm.corrections import TruncatedCorrection
from gigpo_lightning.algorithm.losses import LossSettings
from gigpo_lightning.environments.gridworld import GridworldEnvironment, GridworldTasks
from gigpo_lightning.errors import RunError
from gigpo_lightning.interruption import never
from gigpo_lightning.prompts.gridworld import GridworldPrompt
from gigpo_lightning.rollout import CarryOver, DynamicSampling, ScriptedEngine
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


class Keeper(Callback):
    """Keeps every rollout, and the rows that were trained on."""

    def __init__(self):
        self.rollouts = []
        self.rows = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.rows.append([])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rows[-1] += [int(row) for micro_batch in batch.micro_batches for row in micro_batch.row]

    def on_train_epoch_end(self, trainer, pl_module):
        self.rollouts.append(trainer.datamodule.experience)


class SilentEnvironment(GridworldEnvironment):
    """Never says whether it has succeeded."""

    def step(self, action):
        *outcome, info = super().step(action)
        del info["success"]
        return (*outcome, info)


def fit(folder, **options):
    """A run's engine and keeper; options of the Trainer, but for those of the data under ``data``."""
    module = tiny_module()
    engine, keeper = random_walk(module), Keeper()
    data = walking_data(engine, **options.pop("data", {}))
    ckpt_path = options.pop("ckpt_path", None)
    trainer = quiet_trainer(folder, ScriptedSync(), keeper, **{"max_epochs": 3, "limit_val_batches": 0} | options)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return trainer, engine, keeper


def test_a_run_whose_environment_never_says_whether_it_succeeded_is_told_so_once(tmp_path, caplog):
    fit(tmp_path, max_epochs=2, data={"environment": SilentEnvironment()})
    told = [message for message in caplog.messages if "info['success']" in message]
    assert [message.partition(":")[0] for message in told] == ["epoch 0"]


def test_an_evaluation_says_so_too(tmp_path, caplog):
    module = tiny_module()
    data = walking_data(random_walk(module), environment=SilentEnvironment(), held_out_splits=["valid_seen"])
    quiet_trainer(tmp_path, ScriptedSync()).validate(module, data)
    assert "valid_seen: info['success'] came in none of" in caplog.text


# With reloading, Lightning asks for each later epoch's data twice.
@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"reload_dataloaders_every_n_epochs": 1}], ids=["plain", "reloading"])
def test_every_rollout_is_played_exactly_once(tmp_path, options):
    _, engine, keeper = fit(tmp_path, **options)
    assert [rollout.epoch for rollout in keeper.rollouts] == [0, 1, 2]
    assert len(engine.requests) == sum(len(rollout.table) for rollout in keeper.rollouts)


@pytest.mark.slow
def test_every_rollout_is_played_by_the_newest_weights(tmp_path):
    _, _, keeper = fit(tmp_path, data={"minibatch_size": 16})
    versions = [set(rollout.table.policy_version.tolist()) for rollout in keeper.rollouts]
    # Each minibatch of at most 16 steps was one update.
    updates = [-(-len(rollout.table) // 16) for rollout in keeper.rollouts]
    assert versions == [{0}, {updates[0]}, {updates[0] + updates[1]}]


@pytest.mark.slow
def test_every_step_is_trained_on_once(tmp_path):
    _, _, keeper = fit(tmp_path, data={"minibatch_size": 7, "micro_batch_tokens": 64})
    assert [sorted(rows) for rows in keeper.rows] == [list(range(len(rollout.table))) for rollout in keeper.rollouts]


@pytest.mark.slow
def test_no_epoch_repeats_a_task_and_the_next_has_others(tmp_path):
    _, _, keeper = fit(tmp_path)
    played = [[group.task_id for group in rollout.played.groups] for rollout in keeper.rollouts]
    assert max(Counter(task for epoch in played for task in epoch).values()) == 1


@pytest.mark.slow
def test_the_seed_decides_the_tasks_and_the_noise(tmp_path):
    def requests(seed):
        return [(request.prompt_ids, request.seed) for request in fit(tmp_path, data={"seed": seed})[1].requests]

    assert requests(0) == requests(0)
    assert requests(0) != requests(1)


def test_groups_that_all_went_alike_are_replaced_by_others(tmp_path):
    _, engine, keeper = fit(tmp_path, max_epochs=1, data={"group_sampler": DynamicSampling(max_rounds=20)})
    (rollout,) = keeper.rollouts
    returns = [{episode.episode_return for episode in group.trajectories} for group in rollout.played.groups]
    assert [len(values) > 1 for values in returns] == [True] * 4
    played = [group.task_id for group in (*rollout.played.groups, *rollout.played.discarded)]
    assert len(set(played)) == len(played) > 4
    assert rollout.metrics()["rollout/discarded_groups"] == len(played) - 4
    assert sorted(keeper.rows[0]) == list(range(len(rollout.table)))  # the update has the kept groups' steps alone
    assert len(engine.requests) > len(rollout.table)


def test_an_engine_with_other_weights_is_refused(tmp_path):
    module = tiny_module()
    data = walking_data(random_walk(module))

    class Forgetful(ScriptedSync):
        def sync(self, policy, engine, should_stop=never):
            """Forget it."""

    with pytest.raises(RunError, match=r"weights, version 0, but after Forgetful the engine has version -1"):
        quiet_trainer(tmp_path, Forgetful(), max_epochs=1).fit(module, data)


def test_an_engine_that_cannot_be_proved_is_refused_where_no_callback_syncs_it(tmp_path):
    module = tiny_module()
    with pytest.raises(ValueError, match=r"engine must show its weights .*, got ScriptedEngine"):
        quiet_trainer(tmp_path, max_epochs=1).fit(module, walking_data(random_walk(module)))


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_next_epochs_tasks_and_weights(tmp_path):
    _, _, whole = fit(tmp_path)
    trainer, _, _ = fit(tmp_path, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    _, _, rest = fit(tmp_path, ckpt_path=tmp_path / "two.ckpt")
    assert [rollout.epoch for rollout in rest.rollouts] == [2]
    (resumed,), expected = rest.rollouts, whole.rollouts[2]
    assert [group.task_id for group in resumed.played.groups] == [group.task_id for group in expected.played.groups]
    assert set(resumed.table.policy_version) == set(expected.table.policy_version)


def test_two_evaluations_play_the_same_games_with_the_same_noise(tmp_path):
    module = tiny_module()
    engine = random_walk(module)
    data = walking_data(engine, held_out_splits=["valid_seen"], held_out_repeats=2)
    trainer = quiet_trainer(tmp_path, ScriptedSync())
    trainer.validate(module, data, verbose=False)
    first, engine.requests = engine.requests, []
    module.policy_version += 1
    trainer.validate(module, data, verbose=False)
    assert {request.seed for request in first} == {request.seed for request in engine.requests}


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("group_size", 1, 2),
        ("tasks_per_epoch", 0, 1),
        ("max_steps", 0, 1),
        ("micro_batch_tokens", 0, 1),
        ("minibatch_size", 0, 1),
        ("held_out_repeats", 0, 1),
        ("held_out_tasks", 0, 1),
        ("workers", -1, 0),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_name(name, value, least):
    with pytest.raises(ValueError, match=rf"{name} must be >= {least}, got {value}"):
        walking_data(random_walk(tiny_module()), **{name: value})


def test_more_tasks_an_epoch_than_there_are_is_refused(tmp_path):
    module = tiny_module()
    data = walking_data(random_walk(module), tasks_per_epoch=1000)
    with pytest.raises(ValueError, match=r"tasks_per_epoch must be <= the \d+ tasks of split 'train', got 1000"):
        quiet_trainer(tmp_path, ScriptedSync(), max_epochs=1).fit(module, data)


def test_fewer_tasks_than_ranks_are_refused(monkeypatch):
    data = walking_data(random_walk(tiny_module()))
    data.trainer = quiet_trainer(Path())
    monkeypatch.setattr("gigpo_lightning.rollout.player.place", lambda: (0, 5))
    with pytest.raises(ValueError, match=r"tasks_per_epoch must be >= 5, the number of ranks .*, got 4"):
        data.setup("fit")


def test_after_a_broken_rollout_the_next_begins_with_new_environments(tmp_path):
    module = tiny_module()
    engine = random_walk(module)
    data, script = walking_data(engine), engine.script

    def breaking(request):
        if len(engine.requests) > 20:
            raise KeyError("the engine is lost")
        return script(request)

    engine.script = breaking
    with pytest.raises(KeyError):
        quiet_trainer(tmp_path, ScriptedSync(), max_epochs=1, limit_val_batches=0).fit(module, data)
    second = random_walk(module)
    data.player.engine = second
    quiet_trainer(tmp_path, ScriptedSync(), max_epochs=1, limit_val_batches=0).fit(module, data)
    assert len(second.requests) == len(data.experience.table)


class FarEndIsBroken(GridworldEnvironment):
    """One held-out task cannot be played."""

    def reset(self, *, seed=None, options=None):
        task = options["task"]
        if task.task_id == GridworldTasks(size=3, num_walls=0).panel("valid_seen").tasks[1].task_id:
            raise RuntimeError("no such place")
        return super().reset(seed=seed, options=options)


def test_an_evaluation_without_every_task_is_no_evaluation(tmp_path):
    module = tiny_module()
    data = walking_data(random_walk(module), held_out_splits=["valid_seen"])
    data.player.environment = FarEndIsBroken()
    with pytest.raises(RunError, match=r"must play every task of split 'valid_seen', .* again and again on 1 of \d+"):
        quiet_trainer(tmp_path, ScriptedSync()).validate(module, data, verbose=False)


def test_without_a_trainer_nothing_is_played():
    data: RolloutDataModule = walking_data(random_walk(tiny_module()))
    with pytest.raises(RuntimeError, match="under a Trainer"):
        data.current_experience()


CARRY = {"carry_over": CarryOver(extra_groups=2), "max_steps": 12, "held_out_splits": ["valid_seen"]}


@pytest.mark.slow
def test_carried_groups_are_trained_on_once_and_an_epoch_never_has_more_than_its_share(tmp_path):
    _, _, keeper = fit(tmp_path, max_epochs=6, limit_val_batches=1.0, data=dict(CARRY))
    assert [len(rollout.played.groups) for rollout in keeper.rollouts] == [4] * 6
    assert all(len(group.trajectories) == 4 for rollout in keeper.rollouts for group in rollout.played.groups)
    assert 0 < keeper.rollouts[-1].played.progress.carried <= 2 * 4
    metrics = [rollout.metrics() for rollout in keeper.rollouts]
    assert [each["rollout/staleness_max"] for each in metrics[:1]] == [0.0]
    assert max(each["rollout/staleness_max"] for each in metrics) == 1.0  # one update an epoch, one epoch at most
    assert 0.0 < max(each["rollout/staleness_mean"] for each in metrics) < 1.0
    for rollout in keeper.rollouts:
        progress = rollout.played.progress
        assert progress.finished + progress.carried + progress.dropped == progress.total


@pytest.mark.slow
def test_evaluations_beside_carried_episodes_are_whole_and_the_same_as_without(tmp_path):
    def held_out(**data):
        module = tiny_module()
        engine = random_walk(module)
        seen = []

        class Watch(Callback):
            def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
                episodes = [episode for group in batch.groups for episode in group.trajectories]
                seen.append([[step.action for step in episode.steps] for episode in episodes])

        trainer = quiet_trainer(tmp_path, ScriptedSync(), Watch(), max_epochs=3)
        trainer.fit(module, walking_data(engine, **(CARRY | data)))
        return seen

    with_carried = held_out(num_slots=5)
    assert len(with_carried) == 3
    assert with_carried == held_out(carry_over=None)


@pytest.mark.slow
def test_the_correction_of_a_stale_step_is_by_the_probabilities_that_it_was_written_with(tmp_path):
    """A carried step keeps its engine's log-probabilities; the ratio is to the policy that is about to be updated."""
    module = tiny_module()
    module.loss_settings = LossSettings(importance_correction=TruncatedCorrection())
    engine = random_walk(module)
    answer = engine._answer
    engine._answer = lambda request: replace(
        (completion := answer(request)),
        logprobs=tuple(-1.0 - engine.policy_version for _ in completion.logprobs),
    )
    stale = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            table = trainer.datamodule.experience.table
            for part in batch.micro_batches:
                for row, engine_logprobs, written in zip(
                    part.row, part.engine_logprobs, part.tokens.action_mask, strict=True
                ):
                    version = int(table.policy_version[int(row)])
                    assert set(engine_logprobs[written].tolist()) == {-1.0 - version}
                    stale.append(pl_module.policy_version - version)

    trainer = quiet_trainer(tmp_path, ScriptedSync(), Watch(), max_epochs=4, limit_val_batches=0)
    trainer.fit(module, walking_data(engine, **CARRY))
    assert set(stale) == {0, 1}


def test_more_groups_beside_an_epoch_than_it_trains_on_are_refused():
    with pytest.raises(ValueError, match=r"carry_over.extra_groups must be <= tasks_per_epoch 4, got 5"):
        walking_data(random_walk(tiny_module()), carry_over=CarryOver(extra_groups=5))


@pytest.mark.slow
def test_with_dynamic_sampling_beside_carried_groups_no_group_is_played_twice(tmp_path):
    options = CARRY | {"group_sampler": DynamicSampling(max_rounds=4)}
    _, engine, keeper = fit(tmp_path, max_epochs=4, data=options)
    noises = Counter(request.seed for request in engine.requests)
    assert max(noises.values()) == 1
    for rollout in keeper.rollouts:
        progress = rollout.played.progress
        assert progress.finished + progress.carried + progress.dropped == progress.total
        assert progress.carried <= 2 * 4
    assert max(rollout.played.rounds for rollout in keeper.rollouts) > 1


class TwoNamesOfOneSplit(GridworldTasks):
    """A source whose ``again`` is the training split under another name."""

    def panel(self, split):
        return super().panel("train" if split == "again" else split)


def prepared(stage, tasks=None, **options):
    """A DataModule that is made and set up for a stage."""
    data = RolloutDataModule(
        GridworldEnvironment(),
        tasks or TwoNamesOfOneSplit(size=4),
        GridworldPrompt(),
        ScriptedEngine(lambda request: []),
        **options,
    )
    data.trainer = quiet_trainer(Path())
    data.setup(stage)
    return data


ARGUMENTS = pytest.mark.parametrize(("stage", "name"), [("fit", "held_out_splits"), ("test", "test_splits")])


@ARGUMENTS
@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["valid_seen", "valid_seen"], "must name each split once, got 'valid_seen' twice"),
        (["train"], "must not name the split that is trained on, got 'train'"),
        (["again"], "must share no task .* tasks of 'again' are tasks of 'train' too"),
    ],
)
def test_splits_that_are_not_held_out_are_refused_unless_they_are_asked_for(stage, name, splits, message):
    with pytest.raises(ValueError, match=rf"{name} {message}.*\(allow_shared_tasks: true allows it\)"):
        prepared(stage, **{name: splits})
    assert set(splits) <= prepared(stage, **{name: splits}, allow_shared_tasks=True).player.panels.keys()


@ARGUMENTS
def test_a_split_that_the_source_does_not_know_is_refused(stage, name):
    with pytest.raises(ValueError, match="nowhere"):
        prepared(stage, **{name: ["nowhere"]})


class WithoutTraining(GridworldTasks):
    def panel(self, split):
        if split == "train":
            raise ValueError("there is no file of split 'train'")
        return super().panel(split)


def test_a_machine_without_the_training_tasks_tests_and_says_what_it_cannot_compare(caplog):
    assert list(prepared("test", WithoutTraining(size=4)).player.panels) == ["valid_unseen"]
    assert "not compared with those of train_split 'train': there is no file" in caplog.text
