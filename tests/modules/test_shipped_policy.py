"""The tiny policy that is shipped: what configs/alfworld/warm_start.yaml made."""

from pathlib import Path

import pytest
import torch

from gigpo_lightning.prompts.alfworld import CompactAlfworldPrompt, compact_markers
from gigpo_lightning.prompts.base import TurnView
from modules import Policy, PretrainedPolicy

# Both rooms by hand, in the engine's words.
BEDROOM = TurnView(
    instruction="look at cd under the desklamp",
    observation="You are in the middle of a room. Looking quickly around you, you see a bed 1, and a drawer 1.",
    admissible_actions=("go to bed 1", "go to drawer 1", "help", "inventory", "look"),
    history=(),
)
KITCHEN = TurnView(
    instruction="heat some apple and put it in fridge",
    observation="You arrive at cabinet 2. The cabinet 2 is closed.",
    admissible_actions=(
        "examine cabinet 2",
        "go to cabinet 1",
        "go to fridge 1",
        "go to microwave 1",
        "help",
        "inventory",
        "look",
        "open cabinet 2",
    ),
    history=(
        (
            "You are in the middle of a room. Looking quickly around you, you see a cabinet 2, a cabinet 1, a fridge "
            "1, and a microwave 1.",
            "go to cabinet 2",
        ),
    ),
)


@pytest.fixture(scope="module")
def folder(repository_root: Path) -> Path:
    return repository_root / "configs" / "alfworld" / "tiny_policy"


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    return PretrainedPolicy(str(folder)).build().eval()


def reply(policy: Policy, view: TurnView) -> str:
    """The most likely reply."""
    ids = list(CompactAlfworldPrompt().encode(view, policy.tokenizer, 480).ids)
    start = len(ids)
    with torch.no_grad():
        while len(ids) < start + 10 and ids[-1] != policy.tokenizer.end_token_id:
            ids.append(int(policy.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return policy.tokenizer.decode(ids[start:])


def test_it_is_small_enough_to_ship(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 2 << 20


def test_it_knows_every_marker(policy: Policy) -> None:
    unknown = policy.tokenizer.encode("<unk>")[0]
    assert [marker for marker in compact_markers() if policy.tokenizer.encode(marker) == [unknown]] == []


@pytest.mark.parametrize("view", [BEDROOM, KITCHEN])
def test_it_knows_every_word_of_a_prompt(policy: Policy, view: TurnView) -> None:
    unknown = policy.tokenizer.encode("<unk>")[0]
    assert unknown not in CompactAlfworldPrompt().encode(view, policy.tokenizer, 480).ids


def test_it_begins_with_going_somewhere(policy: Policy) -> None:
    assert reply(policy, BEDROOM) in ("go to bed 1", "go to drawer 1")


def test_it_opens_what_is_closed(policy: Policy) -> None:
    assert reply(policy, KITCHEN).split()[0] == "open"
