"""The gridworld's prompt for tiny word-level policies, and the parser of their replies."""

from typing import Any

from gigpo_lightning.environments.gridworld import MOVES
from gigpo_lightning.prompts.base import EncodedPrompt, ParsedAction, ShowsHistory, Tokenizer, TurnView
from gigpo_lightning.prompts.chat import CompactChatPrompt
from gigpo_lightning.prompts.fitting import fit_prompt
from gigpo_lightning.prompts.world_text import as_text
from gigpo_lightning.text import well_formed

DID, ACT = "<did>", "<act>"
_FILLER = frozenset(("are", "at", "row", "column", "."))


class GridworldPrompt(ShowsHistory):
    """The observation's words without filler, after earlier moves if any are asked for: about a dozen tokens.

    Args:
        history_length: Earlier moves shown; the observation is the whole state, so none are needed.
    """

    markers = (DID, ACT)

    def encode(self, view: TurnView, tokenizer: Tokenizer, max_tokens: int) -> EncodedPrompt:
        """Write the turn in at most ``max_tokens`` tokens: oldest moves go first, then the observation's beginning.

        Raises:
            NoRoomError: If ``max_tokens`` has no room for the marker that ends a prompt.
        """
        view = as_text(view, tokenizer, self)

        def write(num_turns: int, observation: str) -> list[int]:
            earlier = view.history[len(view.history) - num_turns :]
            did = [word for _, action in earlier for word in (DID, *action.split()[:1])]
            words = [word for word in observation.split() if word not in _FILLER]
            return tokenizer.encode(" ".join((*did, *words, ACT)))

        return fit_prompt(write, min(self.history_length, len(view.history)), view.observation, max_tokens)

    def parse(self, response: str, view: TurnView) -> ParsedAction:
        """Take the reply's first word as the move; it is valid if it is a move, even one into a wall."""
        words = well_formed(response).split(maxsplit=1)
        if not words:
            return ParsedAction(action="", valid=False, problem="empty")
        valid = words[0] in MOVES
        return ParsedAction(action=words[0], valid=valid, problem="" if valid else "not a move")


class GridworldChatPrompt(CompactChatPrompt):
    """A conversation of the observations' words without filler, and moves: a dozen tokens a turn.

    Args:
        last_turns: Show only so many earlier turns; default: all that there is room for.
        chat_template_kwargs: What the chat template takes beside the messages.

    Raises:
        ValueError: If ``last_turns`` is negative.
    """

    def __init__(self, last_turns: int | None = None, chat_template_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(False, last_turns, chat_template_kwargs)  # the observation is the whole state

    def message(self, view: TurnView, number: int, first: int) -> str:
        """What the environment said, in short."""
        return " ".join(word for word in super().message(view, number, first).split() if word not in _FILLER)


def gridworld_markers() -> tuple[str, ...]:
    """The markers that the template writes, for a tokenizer's vocabulary."""
    return GridworldPrompt.markers
