"""Demonstrations that a scripted expert plays."""

import gymnasium

from gigpo_lightning.demonstrations import Demonstration, Expert, demonstrate
from gigpo_lightning.environments.base import TaskSource
from gigpo_lightning.environments.splits import check_apart, check_split_names, read_panel
from gigpo_lightning.errors import check_count, check_range
from gigpo_lightning.imitation.base import EndingTokenizer, Episode, Example
from gigpo_lightning.prompts.base import NoRoomError, Prompt, ReplyWriter
from gigpo_lightning.prompts.world_text import as_text


class ExpertDemonstrations:
    """Plays an expert, and shows its advice in every state: each turn is an episode of its own.

    Args:
        environment: Plays the tasks; it must list admissible actions if there are to be detours.
        tasks: Where the tasks come from.
        expert: Says what to do in every state.
        prompt: Template of the turns.
        split: Split that is demonstrated.
        held_out_split: Split that the loss is measured on.
        episodes_per_task: Episodes of every task, each with its own detours.
        held_out_tasks: Tasks of the held-out split, its first.
        detour_probability: Highest rate of random actions among the expert's.
        slip_probability: Share of them that are commands of an earlier turn, which now do nothing.
        max_steps: Longest episode.
        max_prompt_tokens: Longest prompt.
        allow_shared_tasks: Let the held-out split share tasks with the one that is demonstrated, or be the same.

    Raises:
        ValueError: If a number is out of its range, or the held-out split is the one that is demonstrated.
    """

    def __init__(
        self,
        environment: gymnasium.Env,
        tasks: TaskSource,
        expert: Expert,
        prompt: Prompt,
        split: str = "train",
        held_out_split: str = "valid_seen",
        episodes_per_task: int = 4,
        held_out_tasks: int = 60,
        detour_probability: float = 0.5,
        slip_probability: float = 0.15,
        max_steps: int = 30,
        max_prompt_tokens: int = 480,
        allow_shared_tasks: bool = False,
    ) -> None:
        least = {"episodes_per_task": episodes_per_task, "held_out_tasks": held_out_tasks, "max_steps": max_steps}
        for name, value in (least | {"max_prompt_tokens": max_prompt_tokens}).items():
            check_count(name, value)
        for name, share in (("detour_probability", detour_probability), ("slip_probability", slip_probability)):
            check_range(name, share, 0.0, 1.0)
        if not allow_shared_tasks:
            check_split_names("held_out_split", [held_out_split], split)
        self.environment = environment
        self.tasks = tasks
        self.expert = expert
        self.prompt = prompt
        self.split = split
        self.held_out_split = held_out_split
        self.episodes_per_task = episodes_per_task
        self.held_out_tasks = held_out_tasks
        self.detour_probability = detour_probability
        self.slip_probability = slip_probability
        self.max_steps = max_steps
        self.max_prompt_tokens = max_prompt_tokens
        self.allow_shared_tasks = allow_shared_tasks

    def prepare(self) -> None:
        """Have the tasks made or checked, and refuse splits that share tasks which they must not share.

        Raises:
            ValueError: If the source does not know a split, or the two share tasks.
        """
        self.tasks.prepare()
        panels = {name: read_panel(self.tasks, name) for name in (self.split, self.held_out_split)}
        if not self.allow_shared_tasks:
            check_apart("held_out_split", [self.held_out_split], panels, self.split)

    def episodes(self, tokenizer: EndingTokenizer, *, held_out: bool, seed: int) -> list[Episode]:
        """Play the demonstrated split, or the held-out tasks once each.

        Raises:
            NoRoomError: If a prompt does not fit into ``max_prompt_tokens``.
        """
        tasks = read_panel(self.tasks, self.held_out_split if held_out else self.split).tasks
        played = demonstrate(
            self.environment,
            tasks[: self.held_out_tasks] if held_out else tasks * self.episodes_per_task,
            self.expert,
            detour_probability=self.detour_probability,
            slip_probability=self.slip_probability,
            max_steps=self.max_steps,
            seed=seed,
        )
        return [[self._encoded(tokenizer, each)] for each in played]

    def _encoded(self, tokenizer: EndingTokenizer, demonstration: Demonstration) -> Example:
        try:
            view = as_text(demonstration.view, tokenizer, self.prompt)
            prompt = self.prompt.encode(view, tokenizer, self.max_prompt_tokens)
        except NoRoomError as error:
            raise NoRoomError(f"max_prompt_tokens must have room for every prompt, but: {error}") from error
        reply = demonstration.action
        if isinstance(self.prompt, ReplyWriter):
            reply = self.prompt.write_reply(reply, demonstration.view)
        return Example(prompt_ids=prompt.ids, reply_ids=(*tokenizer.encode(reply), tokenizer.end_token_id))
