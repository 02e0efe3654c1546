"""Demonstrations as training batches."""

from collections import Counter
from typing import Any, cast

import pytest
from lightning.pytorch import Trainer

from datamodules import DemonstrationDataModule
from gigpo_lightning.demonstrations import demonstrate
from gigpo_lightning.environments.base import TaskPanel
from gigpo_lightning.environments.gridworld import GridworldEnvironment, GridworldTasks, gridworld_words
from gigpo_lightning.imitation import ExpertDemonstrations
from gigpo_lightning.prompts.gridworld import GridworldPrompt, gridworld_markers
from gigpo_lightning.token_batch import TokenBatch
from modules import BehaviourCloningModule, Policy, TinyPolicy
from tests.gridworld_expert import GreedyExpert

Pair = tuple[str, str]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return TinyPolicy([gridworld_words, gridworld_markers], hidden_size=8, num_layers=1, num_heads=1).build()


def make(policy: Policy, **changes: Any) -> DemonstrationDataModule:
    """A DataModule under a Trainer, which it asks for the policy and the epoch only."""
    arguments: dict[str, Any] = {"episodes_per_task": 1, "max_steps": 6} | changes
    batch_size = arguments.pop("batch_size", 16)
    tasks = arguments.pop("tasks", GridworldTasks(size=3, num_walls=0))
    source = ExpertDemonstrations(GridworldEnvironment(), tasks, GreedyExpert(), GridworldPrompt(), **arguments)
    data = DemonstrationDataModule(source, batch_size=batch_size)
    data.trainer = trainer_of(policy)
    data.prepare_data()
    data.setup("fit")
    return data


def trainer_of(policy: Policy) -> Trainer:
    """A Trainer that has not begun, with a module whose policy is there already."""
    module = BehaviourCloningModule(TinyPolicy([gridworld_words]))
    module._policy = policy
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    return trainer


def rows(policy: Policy, batch: TokenBatch) -> list[Pair]:
    """Prompt and reply of every row, as text, with the end token written out."""
    pairs = []
    for ids, source, reply, written in zip(
        batch.input_ids, batch.source, batch.reply_ids, batch.action_mask, strict=True
    ):
        prompt = ids[: int(source[0]) % len(ids) + 1].tolist()
        words = policy.tokenizer.tokenizer.convert_ids_to_tokens(reply[written].tolist())
        pairs.append((policy.tokenizer.decode(prompt), " ".join(cast("list[str]", words))))
    return pairs


def all_rows(policy: Policy, data: DemonstrationDataModule) -> list[Pair]:
    return [pair for batch in data.train_dataloader() for pair in rows(policy, batch)]


def test_every_demonstration_comes_once_an_epoch(policy: Policy) -> None:
    demonstrations = demonstrate(
        GridworldEnvironment(),
        GridworldTasks(size=3, num_walls=0).panel("train").tasks,
        GreedyExpert(),
        detour_probability=0.5,
        slip_probability=0.15,
        max_steps=6,
        seed=0,
    )
    expected = Counter(each.action + " <end>" for each in demonstrations)
    assert Counter(reply for _, reply in all_rows(policy, make(policy))) == expected


def test_the_reply_answers_its_own_prompt(policy: Policy) -> None:
    for prompt, reply in all_rows(policy, make(policy)):
        numbers = [int(word) for word in prompt.split() if word.isdigit()]
        assert (reply == "down <end>") == (numbers[0] < numbers[2])


def test_epochs_have_the_same_rows(policy: Policy) -> None:
    data = make(policy)
    assert Counter(all_rows(policy, data)) == Counter(all_rows(policy, data))


def test_epochs_have_different_orders(policy: Policy) -> None:
    data = make(policy)
    loader = data.train_dataloader()
    first = [pair for batch in loader for pair in rows(policy, batch)]
    data.trainer.fit_loop.epoch_progress.current.processed = 1
    assert first != [pair for batch in loader for pair in rows(policy, batch)]


def test_the_same_seed_gives_the_same_batches(policy: Policy) -> None:
    assert all_rows(policy, make(policy)) == all_rows(policy, make(policy))


def test_more_episodes_give_more_rows(policy: Policy) -> None:
    assert len(all_rows(policy, make(policy, episodes_per_task=2))) > len(all_rows(policy, make(policy)))


def test_no_batch_is_larger_than_asked_for(policy: Policy) -> None:
    assert {len(batch.input_ids) for batch in list(make(policy).train_dataloader())[:-1]} <= set(range(1, 17))


def test_the_loader_knows_its_number_of_batches(policy: Policy) -> None:
    loader = make(policy).train_dataloader()
    assert len(loader) == len(list(loader))


def test_held_out_demonstrations_are_of_other_tasks(policy: Policy) -> None:
    data = make(policy)
    held_out = {rows(policy, batch)[0][0] for batch in data.val_dataloader()[0]}
    assert held_out


def test_without_detours_only_the_experts_own_way_is_shown(policy: Policy) -> None:
    data = make(policy, detour_probability=0.0, episodes_per_task=2)
    once = Counter(all_rows(policy, make(policy, detour_probability=0.0)))
    assert Counter(all_rows(policy, data)) == once + once


@pytest.mark.parametrize(
    "name", ["episodes_per_task", "held_out_tasks", "max_steps", "max_prompt_tokens", "batch_size"]
)
def test_a_number_below_one_is_refused(policy: Policy, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        make(policy, **{name: 0})


@pytest.mark.parametrize("name", ["detour_probability", "slip_probability"])
def test_a_probability_above_one_is_refused(policy: Policy, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\], got 1.5"):
        make(policy, **{name: 1.5})


def test_demonstrations_of_the_held_out_split_itself_are_refused(policy: Policy) -> None:
    with pytest.raises(ValueError, match="held_out_split must not name the split that is trained on, got 'train'"):
        make(policy, held_out_split="train")


class TwoNamesOfOneSplit(GridworldTasks):
    def panel(self, split: str) -> TaskPanel:
        return super().panel("train")


def test_demonstrations_of_held_out_tasks_are_refused_unless_they_are_asked_for(policy: Policy) -> None:
    source = TwoNamesOfOneSplit(size=3, num_walls=0)
    with pytest.raises(
        ValueError, match=r"held_out_split must share no task .* of 'valid_seen' are tasks of 'train' too"
    ):
        make(policy, tasks=source)
    assert make(policy, tasks=source, allow_shared_tasks=True)
