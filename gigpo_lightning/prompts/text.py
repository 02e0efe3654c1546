"""Prompts for any environment of strings: a chat message for instruct models, plain words for tiny policies."""

from gigpo_lightning.prompts.base import EncodedPrompt, ParsedAction, ShowsHistory, Tokenizer, TurnView
from gigpo_lightning.prompts.fitting import fit_prompt
from gigpo_lightning.prompts.tagged import TaggedPrompt, list_offer, recent_turns, steps_taken
from gigpo_lightning.prompts.whole_reply import parse_whole_reply
from gigpo_lightning.text import well_formed

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

    Raises:
        ValueError: If ``history_length`` is negative.
    """

    def __init__(
        self, role: str = "", history_length: int = 2, require_think: bool = True, require_admissible: bool = False
    ) -> None:
        super().__init__(history_length, require_think, require_admissible)
        self.role = role

    def message(self, view: TurnView, num_turns: int, observation: str) -> str:
        """The message of a turn."""
        parts = [self.role] if self.role else []
        if view.instruction:
            parts.append(f"Your task is: {view.instruction}")
        if view.history:
            parts.append(steps_taken(view))
        if num_turns:
            parts.append(recent_turns(view, num_turns))
        parts.append(f"You now observe: {observation}")
        if view.admissible_actions is not None:
            parts.append(list_offer(list(view.admissible_actions)))
        return "\n\n".join((*parts, " ".join((_ORDER, _THINK if self.require_think else "Write", _ACT))))

    def parse(self, response: str, view: TurnView) -> ParsedAction:
        """Read what stands between the first action tags; without them nothing is sent, and the reply is invalid."""
        text = well_formed(response)
        _, opened, rest = text.partition("<action>")
        action, closed, _ = rest.partition("</action>")
        if not (opened and closed):
            return ParsedAction(action="", valid=False, problem="no action tags")
        action, known = action.strip(), view.admissible_actions
        problem = ""
        if self.require_think and not ("<think>" in text and "</think>" in text):
            problem = "no think tags"
        elif self.require_admissible and known is not None and action not in known:
            problem = "not an available action"
        return ParsedAction(action=action, valid=not problem, problem=problem)


class CompactTextPrompt(ShowsHistory):
    """What the environment says, word by word between a few markers; the whole reply is the action.

    For policies with a vocabulary of their own, such as ``modules.TinyPolicy``, which learns from nothing: no sentence
    around it, no thinking. What is asked for and the available actions stand where the environment says them.

    Args:
        history_length: Earlier actions shown; none are needed where the observation is the whole state.
    """

    markers = (TASK, DID, NOW, CAN, ACT)

    def encode(self, view: TurnView, tokenizer: Tokenizer, max_tokens: int) -> EncodedPrompt:
        """Write the turn in at most ``max_tokens`` tokens: oldest actions go first, then the observation's beginning.

        Raises:
            NoRoomError: If task and available actions alone are longer than ``max_tokens``.
        """
        task = (TASK, view.instruction) if view.instruction else ()
        offer = (CAN, *view.admissible_actions) if view.admissible_actions else ()

        def write(num_turns: int, observation: str) -> list[int]:
            earlier = view.history[len(view.history) - num_turns :]
            did = [words for _, action in earlier for words in (DID, action)]
            return tokenizer.encode(" ".join((*task, *did, NOW, observation, *offer, ACT)))

        return fit_prompt(write, min(self.history_length, len(view.history)), view.observation, max_tokens)

    def parse(self, response: str, view: TurnView) -> ParsedAction:
        """Take the whole reply as the action, as ``parse_whole_reply`` does."""
        return parse_whole_reply(response, view)


def compact_text_markers() -> tuple[str, ...]:
    """The markers that the template writes, for a tokenizer's vocabulary."""
    return CompactTextPrompt.markers
