"""What prompts for instruct models share: a chat message a turn, a reply with tags (App. E of arXiv:2505.10978)."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from gigpo_lightning.prompts.base import EncodedPrompt, ParsedAction, ShowsHistory, Tokenizer, TurnView
from gigpo_lightning.prompts.fitting import fit_prompt
from gigpo_lightning.prompts.world_text import as_text
from gigpo_lightning.text import well_formed

_CHINESE = re.compile(r"[\u4e00-\u9fff]")


@dataclass(eq=False)
class TaggedPrompt(ShowsHistory, ABC):
    """One fresh chat message a turn, and a reply that thinks and acts between tags.

    Earlier replies are not shown, only the observations and actions of the last turns, so that prompts do not grow
    with the episode. Too long a prompt loses its oldest turns first, then the beginning of the observation.
    """

    last_characters: ClassVar[int] = 0
    """How much of a reply without action tags is sent as its action."""
    writes_chats: ClassVar[bool] = True
    any_text: ClassVar[bool] = False
    """Whether an action keeps its upper and lower case, and may be in any script."""

    history_length: int = 2
    """Earlier turns shown, as pairs of observation and action."""
    require_think: bool = True
    """A reply without think tags, in lower case, is invalid."""
    require_admissible: bool = False
    """An action outside the available ones is invalid. The paper lets it pass: it costs a step."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """What the model's chat template takes beside the messages, such as ``enable_thinking``."""

    @abstractmethod
    def message(self, view: TurnView, num_turns: int, observation: str) -> str:
        """The message of a turn with so many earlier turns and this observation."""

    def num_turns(self, view: TurnView) -> int:
        """How many earlier turns are shown if there is room."""
        return min(self.history_length, len(view.history))

    def is_offered(self, action: str, offered: tuple[str, ...]) -> bool:
        """Whether an action is one of the available ones."""
        return action in offered

    def encode(self, view: TurnView, tokenizer: Tokenizer, max_tokens: int) -> EncodedPrompt:
        """Write the turn through the model's chat template, in at most ``max_tokens`` tokens.

        Raises:
            NoRoomError: If task and available actions alone are longer than ``max_tokens``.
        """
        view = as_text(view, tokenizer, self)

        def write(num_turns: int, observation: str) -> list[int]:
            content = self.message(view, num_turns, observation)
            return tokenizer.encode_chat([{"role": "user", "content": content}], **self.chat_template_kwargs)

        turns = self.num_turns(view)
        prompt = fit_prompt(write, turns, view.observation, max_tokens)
        return replace(prompt, truncated=prompt.truncated or turns < min(self.history_length, len(view.history)))

    def parse(self, response: str, view: TurnView) -> ParsedAction:
        """Read what stands between the first action tags, in lower case unless ``any_text`` is allowed.

        Without them the reply's last characters are sent, and it is invalid; so is a reply without think tags or with
        a Chinese character, whose action is sent all the same.
        """
        text = well_formed(response) if self.any_text else well_formed(response).lower()
        _, opened, rest = text.partition("<action>")
        action, closed, _ = rest.partition("</action>")
        if not (opened and closed):
            last = text[max(0, len(text) - self.last_characters) :].strip()
            return ParsedAction(action=last, valid=False, problem="no action tags")
        action = action.strip()
        problem = self._problem(response, action, view)
        return ParsedAction(action=action, valid=not problem, problem=problem)

    def _problem(self, response: str, action: str, view: TurnView) -> str:
        if self.require_think and not ("<think>" in response and "</think>" in response):
            return "no think tags"
        if not self.any_text and _CHINESE.search(response):
            return "a Chinese character"
        known = view.admissible_actions
        if self.require_admissible and known is not None and not self.is_offered(action, known):
            return "not an available action"
        return ""


def tell_turn(view: TurnView, num_turns: int, now: str, not_offered: Collection[str] = ()) -> list[str]:
    """What a message tells of the episode: the steps taken, the last turns, what is ``now``, the available actions."""
    taken = len(view.history)
    parts = [f"You have taken {taken} {'step' if taken == 1 else 'steps'} so far."] if taken else []
    if num_turns:
        turns = list(enumerate(view.history, start=1))[-num_turns:]
        lines = (f"[Observation {n}: {said!r}; Action {n}: {done!r}]" for n, (said, done) in turns)
        parts.append("\n".join((f"The last {num_turns} of them:", *lines)))
    parts.append(now)
    if view.admissible_actions is not None:
        offered = (f"  '{action}'" for action in view.admissible_actions if action not in not_offered)
        parts.append("\n".join(("The available actions are:", *offered)))
    return parts
