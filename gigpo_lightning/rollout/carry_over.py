"""Episodes that outlast a rollout."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gigpo_lightning.environments.base import Task
from gigpo_lightning.errors import check_count
from gigpo_lightning.rollout.episode import Episode, Group

GroupKey = tuple[str, object]
"""A group's task and what its noise depends on, such as the epoch that began it."""


@dataclass(frozen=True, kw_only=True)  # no slots: the command line reads defaults with vars()
class CarryOver:
    """Stops a rollout as soon as an epoch's groups are complete, and goes on with the others in the next epoch.

    More groups are under way than an epoch trains on, so that it need not wait for the last of them. The price is that
    a carried episode's first steps were written by older weights. Each step says which (``policy_version``), and
    ``loss.importance_correction`` corrects for the difference by each step's own log-probabilities.

    Attributes:
        extra_groups: Groups under way beyond those that an epoch trains on; at most as many as it does.
        max_staleness: Epochs that a group may be carried over; a rollout waits for those that have been so often.
    """

    extra_groups: int
    max_staleness: int = 1

    def __post_init__(self) -> None:
        for name in ("extra_groups", "max_staleness"):
            check_count(f"carry_over.{name}", getattr(self, name))


@dataclass(slots=True, kw_only=True)
class CarriedEpisodes:
    """Where the episodes of a rollout are; what is left of it when the rollout stops goes on in the next.

    Attributes:
        groups: Every group that was begun and neither given away nor dropped, oldest first.
        queue: Episodes to be begun, the next one last.
        running: Episodes under way, by slot.
        stepping: Slots that have a command.
        waiting: Episodes whose next request is written, by slot, oldest first.
        begun: Groups that were ever begun.
        oldest: Key of the oldest groups that need not be complete when a rollout stops; None waits for no group.
    """

    groups: list[Group] = field(default_factory=list)
    queue: list[Episode] = field(default_factory=list)
    running: dict[int, Episode] = field(default_factory=dict)
    stepping: set[int] = field(default_factory=set)
    waiting: dict[int, Episode] = field(default_factory=dict)
    begun: int = 0
    oldest: int | None = None

    def begin(self, tasks: Sequence[Task], group_size: int, noise_key: object) -> None:
        """Add a group of each task; those that were begun before go first."""
        for group in self.groups:
            group.carried = len(group.finished)
        added = [Group(task=task, index=self.begun + place, noise_key=noise_key) for place, task in enumerate(tasks)]
        self.begun += len(added)
        self.groups += added
        episodes = [Episode(group=group, index=index) for group in added for index in range(group_size)]
        self.queue[:0] = episodes[::-1]

    def enough(self, group_size: int, wanted: int) -> bool:
        """Whether so many groups are complete, and all that may not be carried on; or nothing is left to play."""
        unfinished = [group for group in self.groups if not group.dropped and len(group.finished) < group_size]
        if not unfinished:
            return not self.running  # of dropped groups, whose environments have not answered yet
        begun = [group.noise_key for group in unfinished if isinstance(group.noise_key, int)]
        if self.oldest is not None and begun and min(begun) < self.oldest:
            return False
        return sum(not group.dropped for group in self.groups) - len(unfinished) >= wanted

    def take(self, group_size: int, wanted: int | None) -> list[Group]:
        """Give away the complete groups, the oldest first, and forget the dropped ones."""
        complete = [group for group in self.groups if not group.dropped and len(group.finished) == group_size][:wanted]
        given = {id(group) for group in complete}
        self.groups = [group for group in self.groups if not group.dropped and id(group) not in given]
        return complete

    def keys(self) -> list[GroupKey]:
        """What it takes to begin its groups again."""
        return [(group.task.task_id, group.noise_key) for group in self.groups if not group.dropped]
