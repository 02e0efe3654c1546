"""The gridworld's prompt."""

import pytest

from gigpo_lightning.environments.gridworld import GridworldEnvironment, gridworld_panel, gridworld_words
from gigpo_lightning.prompts.base import TurnView
from gigpo_lightning.prompts.gridworld import GridworldPrompt, gridworld_markers
from tests.prompts.word_tokenizer import GrowingTokenizer

VIEW = TurnView(
    instruction="go to row 0 column 1",
    observation="you are at row 2 column 3 . goal at row 0 column 1 . walls up left .",
    admissible_actions=("down", "right"),
    history=(("a", "up"), ("b", "right")),
)


def shown(prompt: GridworldPrompt, view: TurnView, max_tokens: int = 100) -> str:
    tokenizer = GrowingTokenizer()
    return tokenizer.decode(prompt.encode(view, tokenizer, max_tokens).ids)


def test_a_turn_word_by_word() -> None:
    assert shown(GridworldPrompt(), VIEW) == "you 2 3 goal 0 1 walls up left <act>"


def test_earlier_moves_are_shown_if_asked_for() -> None:
    assert shown(GridworldPrompt(history_length=1), VIEW) == "<did> right you 2 3 goal 0 1 walls up left <act>"


def test_too_long_a_prompt_loses_its_earlier_moves_first() -> None:
    assert shown(GridworldPrompt(history_length=2), VIEW, 12) == "<did> right you 2 3 goal 0 1 walls up left <act>"


def test_then_it_loses_the_observations_beginning() -> None:
    assert shown(GridworldPrompt(), VIEW, 8) == "3 goal 0 1 walls up left <act>"


def test_no_room_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens must be >= 1"):
        GridworldPrompt().encode(VIEW, GrowingTokenizer(), 0)


def test_every_word_of_a_prompt_is_in_the_vocabulary() -> None:
    vocabulary = {*gridworld_words(), *gridworld_markers()}
    environment = GridworldEnvironment()
    for task in gridworld_panel("train").tasks[:50]:
        observation, _ = environment.reset(options={"task": task})
        view = TurnView(instruction="", observation=observation, admissible_actions=None, history=())
        assert set(shown(GridworldPrompt(), view).split()) <= vocabulary


@pytest.mark.parametrize("reply", ["up", " up ", "up up", "up\nand away", "left"])
def test_a_first_word_that_is_a_move_is_valid(reply: str) -> None:
    parsed = GridworldPrompt().parse(reply, VIEW)
    assert (parsed.action, parsed.valid) == (reply.split()[0], True)


@pytest.mark.parametrize("reply", ["", " \n", "UP", "goal", "<up>", "上", "x" * 10_000, "\ud83d up"])
def test_any_other_first_word_is_invalid(reply: str) -> None:
    assert not GridworldPrompt().parse(reply, VIEW).valid


def test_a_negative_history_is_refused() -> None:
    with pytest.raises(ValueError, match="history_length must be >= 0, got -1"):
        GridworldPrompt(history_length=-1)
