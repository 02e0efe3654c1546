"""ALFWorld's prompts and their parsers: the paper's form for instruct models, a compact one for tiny policies."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from gigpo_lightning.prompts.base import EncodedPrompt, ShowsHistory, Tokenizer, TurnView, WholeReply
from gigpo_lightning.prompts.fitting import fit_prompt
from gigpo_lightning.prompts.tagged import TaggedPrompt, tell_turn
from gigpo_lightning.prompts.world_text import as_text

_NOT_OFFERED = ("help",)

_ROLE = "You act as a skilled household robot in ALFRED, a world that you see and change through short texts."
_ORDER = (
    "Choose what to do next. First think it through, step by step, between <think> and </think>. "
    "Then write exactly one of the available actions between <action> and </action>."
)

TASK, DID, NOTHING, NOW, CAN, TRIED, ACT = "<task>", "<did>", "<nothing>", "<now>", "<can>", "<tried>", "<act>"
SAW = "<saw>"

_WORD = re.compile(r"[a-z0-9]+")
# The greeting and the task stand in the first observation only; the task has its own field.
_ASIDE = re.compile(r"-= .*? =-|your task is to:.*", re.DOTALL)
# The words of the engine's sentences that tell nothing apart.
_FILLER = frozenset(
    (
        *("you", "your", "are", "a", "an", "the", "and", "is", "it", "its", "this", "that", "some", "them", "s", "re"),
        *("in", "on", "to", "from", "with", "of", "at", "up", "using", "around", "quickly", "next"),
        *("see", "arrive", "pick", "turn", "middle", "room", "looking", "facing", "find", "anything"),
    )
)
_NOTHING_HAPPENED = "nothing happens."
_NOT_OFFERED_COMPACT = ("help", "inventory", "look")
_VERBS_NOT_OFFERED_COMPACT = ("examine", "close")
_LONGEST_ACTION = 8  # words; the longest command has seven


class AlfworldPrompt(TaggedPrompt):
    """The paper's form: task, last turns, observation, available actions; the reply thinks and acts between tags.

    The first turn's observation brings the task itself. Of a reply without action tags the last 30 characters are sent.
    """

    last_characters = 30

    def message(self, view: TurnView, num_turns: int, observation: str) -> str:
        """The message of a turn; the first turn's observation brings the task itself."""
        task = [f"Your task is: {view.instruction}"] if view.history else []
        now = f"This is step {len(view.history) + 1}. You now observe: {observation}"
        return "\n\n".join((_ROLE, *task, *tell_turn(view, num_turns, now, _NOT_OFFERED), _ORDER))


@dataclass(eq=False)
class CompactAlfworldPrompt(WholeReply, ShowsHistory):
    """A turn in lower-case words and a few markers, without filler: about 75 tokens with eight receptacles.

    Fields: the task; earlier actions, each followed by what its answer said about things the task names, or by a
    marker if nothing happened; the last observation that says more than that; the commands, new ones first, then those
    tried before in this episode, so that a policy without memory sees where it has not been yet; last the marker after
    which the policy writes a command's words. ``help``, ``inventory``, ``look``, ``examine`` and ``close`` are not
    shown: no game needs them. They may be written.
    """

    markers = (TASK, DID, SAW, NOTHING, NOW, CAN, TRIED, ACT)
    history_length: int = 12
    """Earlier actions shown."""
    mark_tried: bool = True
    """Whether commands tried before come last, after a marker."""

    def encode(self, view: TurnView, tokenizer: Tokenizer, max_tokens: int) -> EncodedPrompt:
        """Write the turn in at most ``max_tokens`` tokens: oldest actions go first, then the observation's beginning.

        Raises:
            NoRoomError: If task and commands alone are longer than ``max_tokens``.
        """
        view = as_text(view, tokenizer, self)
        task = _words(view.instruction)
        turns = _turns(view, frozenset(task), self.history_length)
        tried = frozenset(action for _, action in view.history) if self.mark_tried else frozenset()
        commands = _compact_offer(view.admissible_actions or (), tried)

        def write(num_turns: int, observation: str) -> list[int]:
            did = [word for turn in turns[len(turns) - num_turns :] for word in (DID, *turn)]
            words = (TASK, *task, *did, NOW, *_without_echo(_words(observation)), CAN, *commands, ACT)
            return tokenizer.encode(" ".join(words))

        return fit_prompt(write, len(turns), _last_news(view), max_tokens)


def compact_markers() -> tuple[str, ...]:
    """The markers that the template writes, for a tokenizer's vocabulary."""
    return CompactAlfworldPrompt.markers


@lru_cache(maxsize=1 << 14)  # a game says and offers the same things again and again
def _words(text: str) -> tuple[str, ...]:
    """The words that say something."""
    return tuple(word for word in _WORD.findall(_ASIDE.sub(" ", text.lower())) if word not in _FILLER)


def _without_echo(words: Sequence[str]) -> list[str]:
    """The words without direct repeats, such as a receptacle's name twice in a row."""
    kept: list[str] = []
    for word in words:
        kept.append(word)
        if kept[-2:] == kept[-4:-2] and word.isdigit():
            del kept[-2:]
    return kept


def _last_news(view: TurnView) -> str:
    """The observation, or the last one before it that says where the policy is and what is there."""
    said = [view.observation, *(observation for observation, _ in reversed(view.history))]
    return next((each for each in said if each.lower() != _NOTHING_HAPPENED), "")


def _turns(view: TurnView, task: frozenset[str], num_turns: int) -> list[list[str]]:
    """What was done at each of the last turns, and what came of it."""
    history = view.history[max(0, len(view.history) - num_turns) :]
    said = [observation for observation, _ in history] + [view.observation]
    turns = []
    for (_, action), answer in zip(history, said[1:], strict=True):
        words = _words(action)[:_LONGEST_ACTION]
        if answer.lower() == _NOTHING_HAPPENED:
            turns.append([*words, NOTHING])
            continue
        seen = _named_things(_words(answer), task, frozenset(words))
        turns.append([*words, SAW, *seen] if seen else list(words))
    return turns


def _named_things(answer: Sequence[str], task: frozenset[str], known: frozenset[str]) -> list[str]:
    """Things in an answer that the task names and the action does not, with their numbers."""
    seen = []
    for word, number in pairwise((*answer, "")):
        if word in task and word not in known:
            seen += [word, number] if number.isdigit() else [word]
    return seen


def _compact_offer(admissible_actions: Sequence[str], tried: frozenset[str]) -> list[str]:
    """The commands, new ones first, so that the next place to look stands at the same place in every prompt."""
    new: list[str] = []
    old: list[str] = []
    for action in admissible_actions:
        words = _words(action)
        if action not in _NOT_OFFERED_COMPACT and words and words[0] not in _VERBS_NOT_OFFERED_COMPACT:
            (old if action in tried else new).extend(words)
    return [*new, TRIED, *old] if old else new
