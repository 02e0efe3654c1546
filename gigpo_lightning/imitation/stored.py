"""Demonstrations in Parquet files of episodes: the best of what a policy has played itself."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from gigpo_lightning.errors import check_count, check_range
from gigpo_lightning.imitation.base import EndingTokenizer, Episode, Example, FileDemonstrations, merge_turns
from gigpo_lightning.rollout.store import read_trajectories
from gigpo_lightning.trajectory import Step, Trajectory, TrajectoryGroup

_logger = logging.getLogger(__name__)


@runtime_checkable
class EpisodeFilter(Protocol):
    """Which of a task's episodes are learnt from; chosen by ``class_path``."""

    def keep(self, group: TrajectoryGroup) -> Sequence[Trajectory]:
        """The episodes of a group that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestEpisodes:
    """Keeps the best episodes of each task: highest return first, then fewest steps.

    Raises:
        ValueError: If a number is out of its range.
    """

    per_task: int | None = 1
    """Episodes kept of each task; None keeps all that pass."""
    success: bool = True
    """Keep only episodes that the environment calls a success."""
    min_return: float | None = None
    """Keep only episodes of at least this return, in the environment's units of reward."""

    def __post_init__(self) -> None:
        if self.per_task is not None:
            check_count("per_task", self.per_task)
        if self.min_return is not None:
            check_range("min_return", self.min_return, float("-inf"))

    def keep(self, group: TrajectoryGroup) -> Sequence[Trajectory]:
        """The episodes that pass, best first."""
        passed = [
            each
            for each in group.trajectories
            if (each.success or not self.success)
            and (self.min_return is None or each.episode_return >= self.min_return)
        ]
        return sorted(passed, key=lambda each: (-each.episode_return, len(each.steps)))[: self.per_task]


class StoredEpisodes(FileDemonstrations):
    """Episodes in Parquet files, as runs write them to ``trajectories/``: ``gigpo predict``'s, or a training's.

    Prompts and replies are learnt as the tokens that they were, so the files must come from a policy with the same
    tokenizer. Replies that the parser called invalid, and replies without an end, are left out.

    Args:
        files: Files, or folders of ``*.parquet``.
        keep: Which episodes are learnt from; default: the best success of each task.
        held_out_files: Files, or folders, that the loss is measured on; default: a share of ``files``.
        held_out_share: Share of the tasks of ``files`` that are kept from training, if there are no
            ``held_out_files``.
        valid_actions_only: Leave out replies that the parser called invalid.

    Raises:
        ValueError: If a number is out of its range.
    """

    pattern = "*.parquet"

    def __init__(
        self,
        files: str | list[str],
        keep: EpisodeFilter = BestEpisodes(),
        held_out_files: str | list[str] | None = None,
        held_out_share: float = 0.1,
        valid_actions_only: bool = True,
    ) -> None:
        super().__init__(files, held_out_files, held_out_share)
        self.keep = keep
        self.valid_actions_only = valid_actions_only

    def prepare(self) -> None:
        """Refuse files that are not there.

        Raises:
            ValueError: If a path does not exist.
        """
        self.paths(held_out=False)
        self.paths(held_out=True)

    def read_all(self, paths: Sequence[Path], tokenizer: EndingTokenizer) -> list[Episode]:
        """The kept episodes of several files.

        Raises:
            ValueError: As ``read``; and if no episode is kept.
        """
        found = super().read_all(paths, tokenizer)
        if not found:
            name = type(self.keep).__name__
            raise ValueError(f"keep must leave an episode of {self.files!r} to learn from, but {name} leaves none")
        return found

    def read(self, path: Path, tokenizer: EndingTokenizer) -> list[Episode]:
        """The kept episodes of a file as rows of tokens.

        Raises:
            ValueError: If the file is refused as by ``read_trajectories``, or was written with another tokenizer.
        """
        groups, _ = read_trajectories(path)
        chosen = [each for group in groups for each in self.keep.keep(group)]
        episodes: list[Episode] = []
        for trajectory in chosen:
            turns = [
                Example(prompt_ids=step.prompt_ids, reply_ids=step.completion_ids)
                for number, step in enumerate(trajectory.steps)
                if self._is_learnt(step, tokenizer, f"{path}, task {trajectory.task_id!r}, step {number}")
            ]
            if turns:
                episodes.append(merge_turns(turns))
        played = sum(len(group.trajectories) for group in groups)
        _logger.info("%s: %d of %d episodes kept, of %d tasks", path, len(episodes), played, len(groups))
        return episodes

    def _is_learnt(self, step: Step, tokenizer: EndingTokenizer, where: str) -> bool:
        if tokenizer.decode(step.completion_ids) != step.response:
            raise ValueError(
                f"{where}: completion_ids must read {step.response!r} with the policy's tokenizer, but read "
                f"{tokenizer.decode(step.completion_ids)!r}: the episode was played with another tokenizer"
            )
        ended = bool(step.completion_ids) and step.completion_ids[-1] in tokenizer.stop_token_ids
        return ended and (step.valid_action or not self.valid_actions_only)
