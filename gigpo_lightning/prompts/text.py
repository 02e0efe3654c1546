"""Prompts for any environment of strings: a chat message for instruct models, plain words for tiny policies."""

from typing import Any

from gigpo_lightning.prompts.base import EncodedPrompt, ShowsHistory, Tokenizer, TurnView, WholeReply
from gigpo_lightning.prompts.fitting import fit_prompt
from gigpo_lightning.prompts.tagged import TaggedPrompt, tell_turn
from gigpo_lightning.prompts.world_text import as_text

_ORDER = "Choose what to do next."
_THINK = "First think it through, step by step, between <think> and </think>. Then write"
_ACT = "exactly one action between <action> and </action>."

TASK, DID, NOW, CAN, ACT = "<task>", "<did>", "<now>", "<can>", "<act>"


class TextPrompt(TaggedPrompt):
    """What the environment says, in one chat message a turn; the reply thinks and acts between tags.

    Shown are the role, what is asked for (``info["instruction"]``), the last turns, the observation and the available
    actions (``info["admissible_actions"]``), each where the environment says it. Differs from the prompts of the
    paper's environments: an action keeps its upper and lower case, and may be in any script.

    Args:
        role: What the policy is and how its world works, in a few sentences; the message begins with it.
        history_length: Earlier turns shown, as pairs of observation and action.
        require_think: The reply is told to think first, and one without think tags is invalid.
        require_admissible: An action outside the available ones is invalid.
        chat_template_kwargs: What the model's chat template takes beside the messages, such as ``enable_thinking``.

    Raises:
        ValueError: If ``history_length`` is negative.
    """

    any_text = True

    def __init__(
        self,
        role: str = "",
        history_length: int = 2,
        require_think: bool = True,
        require_admissible: bool = False,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(history_length, require_think, require_admissible, chat_template_kwargs or {})
        self.role = role

    def message(self, view: TurnView, num_turns: int, observation: str) -> str:
        """The message of a turn."""
        parts = [self.role] if self.role else []
        if view.instruction and view.instruction != observation:  # a question is both at its first turn
            parts.append(f"Your task is: {view.instruction}")
        parts += tell_turn(view, num_turns, f"You now observe: {observation}")
        return "\n\n".join((*parts, tagged_order(_ORDER, self.require_think)))


def tagged_order(order: str, require_think: bool) -> str:
    """An order, and the tags in which it is to be carried out."""
    return " ".join((order, _THINK if require_think else "Write", _ACT))


class CompactTextPrompt(WholeReply, ShowsHistory):
    """What the environment says, word by word between a few markers; the whole reply is the action.

    For policies with a vocabulary of their own, such as ``modules.TinyPolicy``, which learns from nothing: no sentence
    around it, no thinking. What is asked for and the available actions stand where the environment says them.

    Args:
        history_length: Earlier actions shown; none are needed where the observation is the whole state.
        show_instruction: Write what is asked for; there is no need to where it is the same in every task.

    Raises:
        ValueError: If ``history_length`` is negative.
    """

    markers = (TASK, DID, NOW, CAN, ACT)

    def __init__(self, history_length: int = 0, show_instruction: bool = True) -> None:
        super().__init__(history_length)
        self.show_instruction = show_instruction

    def encode(self, view: TurnView, tokenizer: Tokenizer, max_tokens: int) -> EncodedPrompt:
        """Write the turn in at most ``max_tokens`` tokens: oldest actions go first, then the observation's beginning.

        Raises:
            NoRoomError: If task and available actions alone are longer than ``max_tokens``.
        """
        view = as_text(view, tokenizer, self)
        task = (TASK, view.instruction) if view.instruction and self.show_instruction else ()
        offer = (CAN, *view.admissible_actions) if view.admissible_actions else ()

        def write(num_turns: int, observation: str) -> list[int]:
            earlier = view.history[len(view.history) - num_turns :]
            did = [words for _, action in earlier for words in (DID, action)]
            return tokenizer.encode(" ".join((*task, *did, NOW, observation, *offer, ACT)))

        return fit_prompt(write, min(self.history_length, len(view.history)), view.observation, max_tokens)


def compact_text_markers() -> tuple[str, ...]:
    """The markers that the template writes, for a tokenizer's vocabulary."""
    return CompactTextPrompt.markers
