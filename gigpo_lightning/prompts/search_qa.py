"""Search QA's prompts and their parser: the paper's form for instruct models, a compact one for tiny policies."""

import json
import re
from typing import Any

from gigpo_lightning.environments.search_qa.tags import ANSWER, SEARCH, blocks
from gigpo_lightning.errors import check_count
from gigpo_lightning.prompts.base import EncodedPrompt, ParsedAction, Tokenizer, TurnView
from gigpo_lightning.prompts.fitting import fit_prompt
from gigpo_lightning.prompts.world_text import as_text
from gigpo_lightning.text import well_formed

_ROLE = "You are skilled at answering questions one step at a time, with a search engine at hand."
_ORDER = (
    "It is your turn. First think it through, step by step, between <think> and </think>. Then do exactly one of two "
    "things, never both:\n"
    "(1) If you lack knowledge, ask the search engine: write <search> your query </search>.\n"
    "(2) If you know enough to be sure, write the final answer, short and without explanation, between <answer> and "
    "</answer>. For example, <answer>Beijing</answer>."
)

TASK, DID, SAW, PASSAGE, ACT = "<task>", "<did>", "<saw>", "<passage>", "<act>"
_TAGS = tuple(f"<{slash}{tag}>" for tag in (SEARCH, ANSWER) for slash in ("", "/"))

_ASIDE = re.compile(r"</?(?:information|search|answer)>")
_PASSAGE_HEAD = re.compile(r'doc \d+(?::\s*(?:"[^"\n]*"\n)?|\(title: (?:"[^"\n]*"\))?)')
_WORD = re.compile(rf"{PASSAGE}|[^\W_]+")
# The words of the invented world's sentences that tell nothing apart.
_FILLER = frozenset(("a", "an", "the", "is", "was", "who", "in", "of", "by"))
_LONGEST_QUERY = 8  # words


class SearchQAPrompt:
    """One fresh chat message a turn: the question and all searches so far with what they found (arXiv:2505.10978).

    Earlier replies are not shown, only what they searched for. Too long a prompt loses its oldest turns first, then
    the beginning of what the last search found.

    Args:
        history_length: Turns shown, with what came of each; four are all that an episode of the paper can have.
        chat_template_kwargs: What the model's chat template takes beside the messages, such as ``enable_thinking``.

    Raises:
        ValueError: If ``history_length`` is not positive.
    """

    writes_chats = True

    def __init__(self, history_length: int = 4, chat_template_kwargs: dict[str, Any] | None = None) -> None:
        check_count("history_length", history_length, why="or no search would be of use")
        self.history_length = history_length
        self.chat_template_kwargs = chat_template_kwargs or {}

    def encode(self, view: TurnView, tokenizer: Tokenizer, max_tokens: int) -> EncodedPrompt:
        """Write the turn in at most ``max_tokens`` tokens: oldest turns go first, then the last result's beginning.

        Raises:
            NoRoomError: If the question alone is longer than ``max_tokens``.
        """
        view = as_text(view, tokenizer, self)
        if not view.history:
            return fit_prompt(lambda _turns, _information: self.write(view, 0, "", tokenizer), 0, "", max_tokens)

        def write(num_earlier: int, information: str) -> list[int]:
            return self.write(view, num_earlier + 1, information, tokenizer)

        return fit_prompt(write, min(self.history_length, len(view.history)) - 1, view.observation, max_tokens)

    def write(self, view: TurnView, num_turns: int, information: str, tokenizer: Tokenizer) -> list[int]:
        """Token ids of the chat message with so many turns, the last of which found this information."""
        if information not in ("", view.observation):
            information = f"<information>… {information}"
        parts = [f"{_ROLE}\nThe question is: {view.instruction}"]
        taken = len(view.history)
        turns = _turns(view, num_turns, information)
        if turns:
            lines = [f"Step {n}:{done} {found}" for n, (done, found) in enumerate(turns, taken - num_turns + 1)]
            parts.append(
                f"You have taken {taken} {'step' if taken == 1 else 'steps'} so far. Your queries stand between "
                "<search> and </search>, and what the search engine found between <information> and </information>:\n"
                + "\n".join(lines)
            )
        content = "\n\n".join((*parts, _ORDER))
        return tokenizer.encode_chat([{"role": "user", "content": content}], **self.chat_template_kwargs)

    def parse(self, response: str, view: TurnView) -> ParsedAction:
        """Read what stands between the first search tags, else between the first answer tags.

        What follows the first closing search tag, else the first closing answer tag, is not looked at. The action is
        the tags and what is between them, without thoughts; ``""`` without either. A reply with both tags, or with one
        of them twice, is invalid, and its action is carried out all the same. Thinking is not required.
        """
        text = well_formed(response)
        action = _projected(text)
        counts = [len(re.findall(f"<{tag}>", text, re.IGNORECASE)) for tag in (SEARCH, ANSWER)]
        if not action:
            problem = "no search or answer tags"
        elif all(counts):
            problem = "both search and answer tags"
        else:
            problem = "a tag twice" if max(counts) > 1 else ""
        return ParsedAction(action=action, valid=not problem, problem=problem)


class CompactSearchQAPrompt(SearchQAPrompt):
    """A turn in lower-case words and a few markers, without filler: about 70 tokens after two searches.

    Fields: the question; each search, followed by the passages that it found; last the marker after which the policy
    writes tags and words. Passages lose their titles, which their texts repeat.

    Args:
        history_length: Turns shown, with what came of each.

    Raises:
        ValueError: If ``history_length`` is not positive.
    """

    markers = (TASK, DID, SAW, PASSAGE, ACT, *_TAGS)
    writes_chats = False

    def __init__(self, history_length: int = 4) -> None:
        super().__init__(history_length)

    def write(self, view: TurnView, num_turns: int, information: str, tokenizer: Tokenizer) -> list[int]:
        """Token ids of words and markers, of so many turns, the last of which found this information."""
        turns = _turns(view, num_turns, information)
        told = [word for done, found in turns for word in (DID, *_words(done)[:_LONGEST_QUERY], SAW, *_words(found))]
        return tokenizer.encode(" ".join((TASK, *_words(view.instruction), *told, ACT)))


def compact_markers() -> tuple[str, ...]:
    """The markers that the template writes and the tags that the policy does, for a tokenizer's vocabulary."""
    return CompactSearchQAPrompt.markers


def _projected(text: str) -> str:
    """The reply's action: its first search block, else its first answer block."""
    for tag in (SEARCH, ANSWER):
        head, closing, _ = text.partition(f"</{tag}>")
        if closing:
            text = head + closing
            break
    for tag in (SEARCH, ANSWER):
        found = blocks(text, tag)
        if found:
            return f"<{tag}>{found[0]}</{tag}>"
    return ""


def _turns(view: TurnView, num_turns: int, information: str) -> list[tuple[str, str]]:
    """The last turns as (action, result); the last one with this information."""
    said = [observation for observation, _ in view.history[1:]]
    done = [action for _, action in view.history]
    turns = list(zip(done, [*said, information], strict=True)) if done else []
    return turns[len(turns) - num_turns :]


def _words(text: str) -> list[str]:
    """The words that say something, and a marker before each passage."""
    text = _PASSAGE_HEAD.sub(f" {PASSAGE} ", _ASIDE.sub("", _plain(text)).lower())
    return [word for word in _WORD.findall(text) if word not in _FILLER]


def _plain(text: str) -> str:
    """The text of a result, unpacked if it is JSON."""
    try:
        result = json.loads(_ASIDE.sub("", text))
    except ValueError:
        return text
    return str(result["result"]) if isinstance(result, dict) and "result" in result else text
