"""What comes from the world is text: a special token in a web page is neither an order nor the end of a turn."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gigpo_lightning.prompts.base import Marked, Prompt, Tokenizer, Turn, TurnView


def as_text(view: TurnView, tokenizer: Tokenizer, prompt: Prompt) -> TurnView:
    """The view with every special token, and every marker of the prompt, marked as plain text.

    All of it comes from outside the prompt: what an environment says, asks for and offers, and the actions and replies
    of a policy. ``Tokenizer.encode`` takes the marks out again. A view without such words is returned as it is.
    """
    markers = prompt.markers if isinstance(prompt, Marked) else ()

    def text(said: str) -> str:
        return tokenizer.as_text(said, markers)

    said = [view.instruction, view.observation, *(view.admissible_actions or ())]
    said += [words for turn in view.history for words in turn]
    said += [words for turn in view.turns for words in (turn.response, *(turn.admissible_actions or ()))]
    every = "\n".join((*said, str(view.tools) if view.tools else ""))
    if text(every) == every:
        return view
    return replace(
        view,
        instruction=text(view.instruction),
        observation=text(view.observation),
        admissible_actions=_each(view.admissible_actions, tokenizer, markers),
        history=tuple((text(observation), text(action)) for observation, action in view.history),
        turns=tuple(_turn_as_text(turn, tokenizer, markers) for turn in view.turns),
        tools=tuple(tree_as_text(tool, tokenizer, markers) for tool in view.tools),
    )


def _each(texts: tuple[str, ...] | None, tokenizer: Tokenizer, markers: tuple[str, ...]) -> tuple[str, ...] | None:
    return None if texts is None else tuple(tokenizer.as_text(text, markers) for text in texts)


def _turn_as_text(turn: Turn, tokenizer: Tokenizer, markers: tuple[str, ...]) -> Turn:
    return replace(
        turn,
        observation=tokenizer.as_text(turn.observation, markers),
        action=tokenizer.as_text(turn.action, markers),
        response=tokenizer.as_text(turn.response, markers),
        admissible_actions=_each(turn.admissible_actions, tokenizer, markers),
    )


def tree_as_text(tree: Any, tokenizer: Tokenizer, markers: tuple[str, ...] = ()) -> Any:
    """A JSON value in which every text is marked, names too."""
    if isinstance(tree, str):
        return tokenizer.as_text(tree, markers)
    if isinstance(tree, Mapping):
        pairs = ((tree_as_text(name, tokenizer, markers), value) for name, value in tree.items())
        return {name: tree_as_text(value, tokenizer, markers) for name, value in pairs}
    if isinstance(tree, list | tuple):
        return [tree_as_text(value, tokenizer, markers) for value in tree]
    return tree
