"""Plays a conversation by hand: turns that were shown a prompt and answered with given tokens."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gigpo_lightning.prompts.base import EncodedPrompt, Turn, TurnView
from gigpo_lightning.prompts.chat import ChatPrompt
from modules.tokenizer import TransformersTokenizer

SAID = ("you are at row 0", "you are at row 1", "you are at row 2", "you are at row 1")
OFFERED = (("down",), ("up", "down"), ("up",), ("up", "down"))
END = "<|im_end|>"


class Conversation:
    """An episode of a chat: each reply is text, whose tokens are what was sampled, or tokens."""

    def __init__(
        self,
        prompt: ChatPrompt,
        tokenizer: TransformersTokenizer,
        replies: Sequence[str | Sequence[int]],
        room: int = 4000,
        said: Sequence[str] = SAID,
        tools: tuple[dict[str, Any], ...] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.turns: list[Turn] = []
        self.prompts: list[EncodedPrompt] = []
        for number in range(len(replies) + 1):
            offered = OFFERED[number % len(OFFERED)]
            self.view = TurnView(
                instruction="find the goal",
                observation=said[number],
                admissible_actions=offered,
                turns=tuple(self.turns),
                tools=tools,
            )
            self.prompts.append(prompt.encode(self.view, tokenizer, room))
            if number == len(replies):
                break
            reply = replies[number]
            ids = tuple(tokenizer.encode(reply) if isinstance(reply, str) else reply)
            self.turns.append(
                Turn(
                    observation=said[number],
                    action="up",
                    response=tokenizer.decode(ids),
                    prompt_ids=self.prompts[-1].ids,
                    completion_ids=ids,
                    admissible_actions=offered,
                    first_turn=self.prompts[-1].first_turn,
                )
            )

    def grown(self) -> list[bool]:
        """Of each later prompt, whether it begins with the prompt and the reply before."""
        shown = [(*prompt.ids, *turn.completion_ids) for prompt, turn in zip(self.prompts, self.turns, strict=False)]
        return [
            after.ids[: len(before)] == before for before, (_, after) in zip(shown, pairwise(self.prompts), strict=True)
        ]

    def text(self) -> str:
        """The last prompt."""
        return self.tokenizer.exact_text(self.prompts[-1].ids)
