"""A rollout's progress: a live line in a terminal, plain log lines elsewhere."""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.status import Status

from gigpo_lightning.text import as_rate
from gigpo_lightning.trajectory import TrajectoryGroup

_logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class RolloutProgress:
    """Counts of a rollout under way.

    Attributes:
        name: What is played, such as ``"epoch 3"``.
        total: Number of episodes to be played, those that were carried over included: in the end, those that have
            finished, those that were dropped and those that are carried on.
        finished: Episodes that have ended in this rollout, but for those whose group was dropped.
        successes: Episodes among them that ended in success.
        judged: Finished episodes whose environment said whether they succeeded, those of dropped groups too.
        dropped: Episodes whose group was dropped, finished or not.
        carried: Episodes that are not finished, and go on in the next rollout.
        retried: Times that an episode was begun again after its environment had failed.
        steps: Environment steps taken.
        tokens: Tokens sampled.
        engine_seconds: Time that the collector spent in the engine.
        environment_seconds: Time that the collector spent waiting for environments, or stepping them itself.
        slowest: Longest time that one reset or step of an environment has taken, in seconds.
        slowest_task: Whose it was.
        started: Clock at the start, in seconds.
    """

    name: str
    total: int
    finished: int = 0
    successes: int = 0
    judged: int = 0
    dropped: int = 0
    carried: int = 0
    retried: int = 0
    steps: int = 0
    tokens: int = 0
    engine_seconds: float = 0.0
    environment_seconds: float = 0.0
    slowest: float = 0.0
    slowest_task: str = ""
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self.started

    def add(self, other: "RolloutProgress") -> None:
        """Count what another part of the same rollout did."""
        for name in ("total", "finished", "successes", "judged", "dropped", "retried", "steps", "tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.total -= self.carried  # the other part went on with them
        self.carried = other.carried
        self.engine_seconds += other.engine_seconds
        self.environment_seconds += other.environment_seconds
        self.note_environment(other.slowest_task, other.slowest)

    def note_environment(self, task_id: str, seconds: float) -> None:
        """Remember how long an environment took, if none has taken longer."""
        if seconds > self.slowest:
            self.slowest, self.slowest_task = seconds, task_id

    def line(self) -> str:
        """The counts in one line."""
        seconds = max(self.seconds, 1e-9)
        success = as_rate(self.successes / self.finished, 2) if self.finished else "-"
        dropped = f", {self.dropped} dropped" if self.dropped else ""
        return (
            f"{self.name}: success {success} in {self.finished}/{self.total} episodes{dropped}, "
            f"{self.steps / seconds:.0f} steps/s, {self.tokens / seconds:.0f} tokens/s, slowest environment "
            f"{self.slowest:.2f} s"
        )


class SuccessWatch:
    """Says once if the infos of a whole rollout leave out ``"success"``: the success rate would be 0 for ever."""

    def __init__(self) -> None:
        self._done = False

    def look_at(self, progress: RolloutProgress) -> None:
        """Look at a rollout that has ended."""
        if self._done or progress.judged or not progress.finished:
            return
        self._done = True
        _logger.warning(
            "%s: info['success'] came in none of %d episodes, which so count as failed: set it to True or False in the "
            "environment's step, at the latest in an episode's last info",
            progress.name,
            progress.finished,
        )


class CutWatch:
    """Says once that prompts had to be cut: the policy does not see what its prompt should show."""

    def __init__(self) -> None:
        self._done = False

    def look_at(self, name: str, groups: Iterable[TrajectoryGroup], context: int) -> None:
        """Look at the episodes of a rollout that has ended; ``context`` is the engine's, in tokens."""
        if self._done:
            return
        cut = [step.prompt_truncated for group in groups for each in group.trajectories for step in each.steps]
        if not any(cut):
            return
        self._done = True
        _logger.warning(
            "%s: %d of %d prompts were cut to fit into %d tokens (max_model_len, the reply included), the oldest turns "
            "first; raise max_model_len, or lower the prompt's history_length or sampling.max_tokens. "
            "rollout/truncated_prompts counts them from now on",
            name,
            sum(cut),
            len(cut),
            context,
        )


class ProgressDisplay:
    """Shows a rollout's progress; told of every change, it draws few times a second.

    Args:
        log_every: Seconds between log lines where there is no terminal.
    """

    def __init__(self, log_every: float = 30.0) -> None:
        self.log_every = log_every
        self._status: Status | None = None
        self._due = 0.0

    @contextmanager
    def showing(self, progress: RolloutProgress) -> Iterator[None]:
        """Show the progress while the block runs."""
        console = Console(stderr=True)
        self._due = time.perf_counter() + self.log_every
        if console.is_terminal:
            with console.status(progress.line()) as self._status:
                yield
            self._status = None
        else:
            yield
        _logger.debug(progress.line())

    def update(self, progress: RolloutProgress) -> None:
        """Draw the line anew, if it is time."""
        now = time.perf_counter()
        if self._status is not None:
            if now >= self._due - self.log_every + 0.2:
                self._status.update(progress.line())
                self._due = now + self.log_every
        elif now >= self._due:
            _logger.info(progress.line())
            self._due = now + self.log_every
