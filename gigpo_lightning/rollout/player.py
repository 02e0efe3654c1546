"""Plays an epoch, or an evaluation, on an engine that is proved to have the policy's weights."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import gymnasium

from gigpo_lightning.engines.base import RolloutEngine, SamplingParameters, check_trainable
from gigpo_lightning.environments.base import Task, TaskPanel, TaskSource, check_reset
from gigpo_lightning.environments.splits import read_panel
from gigpo_lightning.errors import RunError, check_count, check_seed
from gigpo_lightning.interruption import never
from gigpo_lightning.policy_view import PolicyView
from gigpo_lightning.pool.base import EnvironmentPool, make_pool
from gigpo_lightning.pool.workers import Deadlines
from gigpo_lightning.prompts.base import Prompt, check_markers
from gigpo_lightning.ranks import place
from gigpo_lightning.rollout.carry_over import CarriedEpisodes, CarryOver, GroupKey
from gigpo_lightning.rollout.collector import Collector
from gigpo_lightning.rollout.failures import FailureLog, named
from gigpo_lightning.rollout.group_sampler import GroupSampler, PlayedGroups, play_groups
from gigpo_lightning.rollout.progress import CutWatch, RolloutProgress, SuccessWatch
from gigpo_lightning.rollout.sync import EngineSync, ProvedSync
from gigpo_lightning.rollout.tasks import check_share, epoch_tasks, more_tasks
from gigpo_lightning.trajectory import TrajectoryGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutGroups:
    """One evaluation of one split.

    Attributes:
        split: The split's name.
        policy_version: Version of the weights that were evaluated.
        temperature: Temperature that replies were drawn at.
        groups: The episodes: each task once a repeat.
        seconds: How long it took.
    """

    split: str
    policy_version: int
    temperature: float
    groups: tuple[TrajectoryGroup, ...]
    seconds: float


@dataclass(eq=False, repr=False)
class RolloutPlayer:
    """Owns the panels, the environments, the engine, and the proof that the engine has the policy's weights.

    Of several ranks each has a player. They deal an epoch's tasks out among them, and each plays whole groups on an
    engine and in environments of its own. Numbers of tasks and groups are of all ranks together.

    Args:
        environment: Prototype of the environment; it is copied into every slot and never reset itself.
        tasks: Where the tasks come from.
        prompt: Template and parser.
        engine: Writes the policy's replies.
        sampling: How replies are drawn in training.
        held_out_sampling: How replies are drawn in evaluation; default: as in training.
        tasks_per_epoch: Groups of an epoch.
        group_size: Episodes of a group; at least 2, or there is nothing to compare.
        max_steps: Longest episode, in environment steps.
        train_split: Split that training tasks come from.
        held_out_repeats: Times that an evaluation plays each task.
        held_out_tasks: Play only this many of a split's tasks, its first; default: all.
        group_sampler: Which groups an epoch trains on; default: all that it plays.
        carry_over: Stop a rollout once ``tasks_per_epoch`` groups are complete, and go on with the others in the next
            epoch; default: wait for all. A run that goes on from a checkpoint begins carried groups again.
        num_slots: Episodes that run at the same time on a rank; default: all that may be under way.
        workers: Processes of a rank that step environments; 0 steps them in the rank's own.
        deadlines: How long an environment in a worker may take before the process is replaced.
        max_retries: Times that an episode is begun again after its environment has failed, before its group is dropped.
        deterministic: Make two rollouts with one seed on equal weights equal to the last bit, however quick the workers
            are; environments and engine then take turns.
        seed: Of the tasks' order, the sampling noise and the minibatches.

    Attributes:
        panels: The tasks of every split that has been read.
        sync: Brings the engine up to date before each rollout.
        same_tasks: Number of tasks that every epoch plays, the same ones; None of a run that plays others.

    Raises:
        ValueError: If a number is out of its range, or the environment's ``reset`` takes no options.
    """

    environment: gymnasium.Env
    tasks: TaskSource
    prompt: Prompt
    engine: RolloutEngine
    sampling: SamplingParameters = SamplingParameters()  # noqa: RUF009  frozen
    held_out_sampling: SamplingParameters | None = None
    tasks_per_epoch: int = 16
    group_size: int = 8
    max_steps: int = 50
    train_split: str = "train"
    held_out_repeats: int = 1
    held_out_tasks: int | None = None
    group_sampler: GroupSampler | None = None
    carry_over: CarryOver | None = None
    num_slots: int | None = None
    workers: int = 1
    deadlines: Deadlines = Deadlines()  # noqa: RUF009  frozen
    max_retries: int = 2
    deterministic: bool = False
    seed: int = 0

    panels: dict[str, TaskPanel] = field(init=False, default_factory=dict)
    sync: EngineSync = field(init=False, default_factory=ProvedSync)
    same_tasks: int | None = field(init=False, default=None)
    _pools: dict[str, EnvironmentPool] = field(init=False, default_factory=dict)
    _carried: CarriedEpisodes = field(init=False, default_factory=CarriedEpisodes)
    # an epoch, and the groups that it began with
    _begun_with: tuple[int, list[GroupKey]] = field(init=False, default_factory=lambda: (-1, []))
    _playing: bool = field(init=False, default=False)
    _success_watch: SuccessWatch = field(init=False, default_factory=SuccessWatch)
    _cut_watch: CutWatch = field(init=False, default_factory=CutWatch)
    _failures: FailureLog = field(init=False, default_factory=FailureLog)

    def __post_init__(self) -> None:
        check_count("group_size", self.group_size, 2, why="a group of one has nothing to be compared with")
        least = dict.fromkeys(("tasks_per_epoch", "max_steps", "held_out_repeats", "held_out_tasks", "num_slots"), 1)
        for name, number in (least | {"workers": 0, "max_retries": 0}).items():
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), number)
        check_seed(self.seed)
        check_reset(self.environment)
        extra = self.carry_over.extra_groups if self.carry_over is not None else 0
        if extra > self.tasks_per_epoch:
            raise ValueError(
                f"carry_over.extra_groups must be <= tasks_per_epoch {self.tasks_per_epoch}, got {extra}: groups would "
                "be complete for longer than an epoch before their update"
            )

    def read_panels(self, splits: Iterable[str], training: bool = True) -> None:
        """Read the tasks of some splits, unless that has been done; ``training`` says whether epochs are to be played.

        Raises:
            ValueError: If the source does not know a split, or an epoch wants more tasks than the training split has,
                or fewer than there are ranks, or the engine has a model of its own.
        """
        wanted = self.same_tasks or self.tasks_per_epoch
        if training:
            check_trainable(self.engine)
            check_share(wanted, place()[1])
        for split in splits:
            if split not in self.panels:
                self.panels[split] = read_panel(self.tasks, split)
        if training and wanted > (known := len(self.panels[self.train_split])):
            raise ValueError(
                f"tasks_per_epoch must be <= the {known} tasks of split {self.train_split!r}, got {wanted}"
            )

    def play(self, epoch: int, policy: PolicyView, should_stop: Callable[[], bool] = never) -> PlayedGroups:
        """Play this rank's share of an epoch's tasks, and others for the groups that the sampler discards.

        Args:
            epoch: Number of the epoch, from 0; chooses the tasks and the noise.
            policy: Plays; all ranks have to bring their engines up to date together.
            should_stop: Asked at every turn.

        Raises:
            Preempted: If it was asked to stop.
            NothingPlayedError: If the environment failed on every task.
            RunError: If the engine or the workers cannot go on, or the engine does not have the policy's weights.
            ValueError: If a prompt has no room, or the tokenizer does not know its markers.
        """
        started = time.perf_counter()
        collector = self._collector(policy, self.sampling, "rollout", should_stop, should_stop)
        carried = self._carried if self.carry_over is not None else CarriedEpisodes()
        self._begun_with, self._playing = (epoch, carried.keys()), True
        panel, same = self.panels[self.train_split], self.same_tasks
        tasks = epoch_tasks(panel, same or self.tasks_per_epoch, 0 if same else epoch, self.seed)
        under_way = _Epoch(player=self, collector=collector, carried=carried, epoch=epoch, dealt=tasks)
        played = play_groups(under_way.play, under_way.own_tasks(), under_way.more, self.group_sampler)
        self._playing = False
        self._success_watch.look_at(played.progress)
        self._cut_watch.look_at(f"epoch {epoch}", played.every(), collector.player.context)
        return replace(played, seconds=time.perf_counter() - started)

    def evaluate(self, split: str, policy: PolicyView, should_stop: Callable[[], bool] = never) -> HeldOutGroups:
        """Play every task of a split as often as asked for, with the same noise in every evaluation.

        Args:
            split: Its name.
            policy: Plays; all ranks have to bring their engines up to date together.
            should_stop: Asked while the engine waits for its servers; what is begun is finished.

        Raises:
            RunError: If the environment failed again and again on a task: an evaluation plays each.
        """
        rank, ranks = place()
        shard: Sequence[Task] = self.panels[split].tasks[: self.held_out_tasks][rank::ranks]
        # Carried episodes keep their slots: an evaluation has environments of its own beside them.
        pool = "rollout" if self.carry_over is None else "evaluation"
        sampling = self.held_out_sampling or self.sampling
        collector = self._collector(policy, sampling, pool, should_stop)
        groups, progress = collector.play(shard, self.held_out_repeats, noise_key=f"held-out/{split}", name=split)
        self._success_watch.look_at(progress)
        self._cut_watch.look_at(split, groups, collector.player.context)
        if progress.dropped:
            complete = {group.task_id for group in groups}
            failed = [task.task_id for task in shard if task.task_id not in complete]
            raise RunError(
                f"an evaluation must play every task of split {split!r}, but the environment failed again and again on "
                f"{len(failed)} of {len(shard)}: {named(failed)}; the log has the cause"
            )
        return HeldOutGroups(
            split=split,
            policy_version=policy.policy_version,
            temperature=sampling.temperature,
            groups=tuple(groups),
            seconds=progress.seconds,
        )

    def close(self) -> None:
        """End the environments; the engine stays. Carried episodes lose theirs, and begin again in the next rollout."""
        for pool in self._pools.values():
            pool.close()
        self._pools = {}
        keys = self._begun_with[1] if self._playing else self._carried.keys()
        self._playing = False
        if keys:
            self.begin_again(keys)

    def carried_groups(self, epoch: int) -> list[GroupKey]:
        """The groups of this rank that an epoch goes on with, also after it has been played."""
        began, keys = self._begun_with
        return keys if began == epoch else self._carried.keys()

    def begin_again(self, keys: Sequence[GroupKey]) -> None:
        """Carry groups into the next rollout from their start.

        Raises:
            ValueError: If the training split lacks a task of theirs.
        """
        tasks = {task.task_id: task for task in self.panels[self.train_split].tasks}
        for task_id, _ in keys:
            if task_id not in tasks:
                raise ValueError(
                    f"split {self.train_split!r} must hold the tasks that the checkpoint carries on, but lacks "
                    f"{task_id!r}"
                )
        self._carried = CarriedEpisodes()
        for task_id, noise_key in keys:
            self._carried.begin([tasks[task_id]], self.group_size, noise_key)

    def num_episodes(self, ranks: int) -> int:
        """Episodes that may be under way at once on each of so many ranks."""
        if self.num_slots is not None:
            return self.num_slots
        groups = self.tasks_per_epoch + (self.carry_over.extra_groups if self.carry_over else 0)
        return -(-groups // ranks) * self.group_size

    def _collector(
        self,
        policy: PolicyView,
        sampling: SamplingParameters,
        pool: str,
        should_stop: Callable[[], bool],
        interrupted: Callable[[], bool] = never,
    ) -> Collector:
        """A collector on an engine that is proved to have the policy's weights."""
        check_markers(self.prompt, policy.tokenizer.is_unknown)  # before an engine takes its time to start
        self.sync.sync(policy, self.engine, should_stop)
        if self.engine.policy_version != policy.policy_version:
            raise RunError(
                f"a rollout needs the policy's weights, version {policy.policy_version}, but after "
                f"{type(self.sync).__name__} the engine has version {self.engine.policy_version}"
            )
        if pool not in self._pools:
            slots = self.num_episodes(place()[1])
            self._pools[pool] = make_pool(self.environment, slots, self.workers, self.deadlines)
        return Collector(
            engine=self.engine,
            pool=self._pools[pool],
            prompt=self.prompt,
            tokenizer=policy.tokenizer,
            sampling=sampling,
            max_steps=self.max_steps,
            seed=self.seed,
            max_retries=self.max_retries,
            deterministic=self.deterministic,
            failures=self._failures,
            interrupted=interrupted,
        )


@dataclass(slots=True, kw_only=True)
class _Epoch:
    """An epoch's rollout under way on a rank."""

    player: RolloutPlayer
    collector: Collector
    carried: CarriedEpisodes
    epoch: int
    dealt: Sequence[Task]
    begun: list[Task] = field(default_factory=list)  # a task begun twice in an epoch would have the same noise twice

    def own_tasks(self) -> Sequence[Task]:
        """This rank's share."""
        rank, ranks = place()
        return self.dealt[rank::ranks]

    def play(self, tasks: Sequence[Task]) -> tuple[list[TrajectoryGroup], RolloutProgress]:
        """Play a group of each task; with carry-over as many others beside them as may be carried on."""
        group_size, name, wanted = self.player.group_size, f"epoch {self.epoch}", len(tasks)
        if carry_over := self.player.carry_over:
            rank, ranks = place()
            self.carried.oldest = self.epoch - carry_over.max_staleness + 1
            extra = len(range(rank, carry_over.extra_groups, ranks))
            tasks = [*tasks, *self.more(tasks, extra - len(self.carried.groups))]
        self.begun.extend(tasks)
        return self.collector.play(
            tasks, group_size, noise_key=self.epoch, name=name, carried=self.carried, wanted=wanted
        )

    def more(self, played: Sequence[Task], missing: int) -> Sequence[Task]:
        """Other tasks for this rank, which it has not begun."""
        rank, ranks = place()
        player, under_way = self.player, [group.task for group in self.carried.groups]
        if player.same_tasks:
            return ()
        known = [*self.dealt, *played, *self.begun, *under_way]
        panel = player.panels[player.train_split]
        return more_tasks(panel, known, max(0, missing), self.epoch, player.seed, rank, ranks)
