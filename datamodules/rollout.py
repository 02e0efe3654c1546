"""The DataModule that plays fresh episodes each epoch and turns them into minibatches."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import gymnasium
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.stream import stream
from gigpo_lightning.batch import Minibatch, make_minibatches
from gigpo_lightning.engines.base import RolloutEngine, SamplingParameters
from gigpo_lightning.environments.base import Task, TaskPanel, TaskSource
from gigpo_lightning.environments.splits import check_apart, check_split_names, read_panel, with_training_panel
from gigpo_lightning.errors import RunError, check_count, check_seed
from gigpo_lightning.interruption import never, play_unless_stopped
from gigpo_lightning.pool.base import EnvironmentPool, make_pool
from gigpo_lightning.pool.workers import Deadlines
from gigpo_lightning.prompts.base import Prompt
from gigpo_lightning.prompts.markers import check_markers
from gigpo_lightning.ranks import end_processes
from gigpo_lightning.rollout.carried_state import CarriedState
from gigpo_lightning.rollout.carry_over import CarryOver
from gigpo_lightning.rollout.collector import Collector
from gigpo_lightning.rollout.episode import noise_seed
from gigpo_lightning.rollout.group_sampler import GroupSampler, PlayedGroups, play_groups
from gigpo_lightning.rollout.progress import RolloutProgress, SuccessWatch
from gigpo_lightning.rollout.record import HeldOutEpisodes, Rollout
from gigpo_lightning.rollout.tasks import check_share, epoch_tasks, more_tasks
from gigpo_lightning.trajectory import StepTable, TrajectoryGroup
from modules import GiGPOModule

_logger = logging.getLogger(__name__)


class RolloutDataModule(LightningDataModule):
    """Streams fresh rollouts: one epoch is one iteration of GiGPO.

    Each epoch's rollout is played exactly once, however often Lightning asks for the data, and only on an engine
    whose weights are the module's. Several ranks deal an epoch's tasks out among them, and each plays whole groups on
    an engine and in environments of its own; numbers of tasks, groups and steps are those of all ranks together.

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
        minibatch_size: Steps of one optimizer step; default: all steps of the epoch.
        micro_batch_tokens: Longest micro-batch, rows times longest row, in tokens.
        train_split: Split that training tasks come from.
        held_out_splits: Splits that ``validate``, and evaluation during ``fit``, play.
        test_splits: Splits that ``test`` plays.
        predict_split: Split that ``predict`` plays.
        held_out_repeats: Times that an evaluation plays each task.
        held_out_tasks: Play only this many of a split's tasks, its first; default: all.
        group_sampler: Which groups an epoch trains on; default: all that it plays.
        carry_over: Stop a rollout once ``tasks_per_epoch`` groups are complete, and go on with the others in the next
            epoch; default: wait for all. Checkpoints hold them: a run that goes on from one first replays their actions
            in new environments, and begins again those whose environment then says something else.
        num_slots: Episodes that run at the same time on a rank; default: all that may be under way.
        workers: Processes of a rank that step environments; 0 steps them in the rank's own.
        deadlines: How long an environment in a worker may take before the process is replaced.
        max_retries: Times that an episode is begun again after its environment has failed, before its group is dropped.
        deterministic: Make two rollouts with one seed on equal weights equal to the last bit, however quick the workers
            are; environments and engine then take turns.
        seed: Of the tasks' order, the sampling noise and the minibatches.
        allow_shared_tasks: Let held-out and test splits share tasks with each other and with the training split.

    Raises:
        ValueError: If a number is out of its range, or a held-out split is named twice or is the training split.
    """

    before_rollout: Callable[[], None] | None = None
    last_rollout: Rollout | None = None

    def __init__(
        self,
        environment: gymnasium.Env,
        tasks: TaskSource,
        prompt: Prompt,
        engine: RolloutEngine,
        sampling: SamplingParameters = SamplingParameters(),  # noqa: B008  frozen
        held_out_sampling: SamplingParameters | None = None,
        tasks_per_epoch: int = 16,
        group_size: int = 8,
        max_steps: int = 50,
        minibatch_size: int | None = None,
        micro_batch_tokens: int = 16384,
        train_split: str = "train",
        held_out_splits: Sequence[str] = ("valid_seen",),
        test_splits: Sequence[str] = ("valid_unseen",),
        predict_split: str = "valid_unseen",
        held_out_repeats: int = 1,
        held_out_tasks: int | None = None,
        group_sampler: GroupSampler | None = None,
        carry_over: CarryOver | None = None,
        num_slots: int | None = None,
        workers: int = 1,
        deadlines: Deadlines = Deadlines(),  # noqa: B008  frozen
        max_retries: int = 2,
        deterministic: bool = False,
        seed: int = 0,
        allow_shared_tasks: bool = False,
    ) -> None:
        super().__init__()
        self.environment = environment
        self.tasks = tasks
        self.prompt = prompt
        self.engine = engine
        self.sampling = sampling
        self.held_out_sampling = held_out_sampling or sampling
        self.tasks_per_epoch = tasks_per_epoch
        self.group_size = group_size
        self.max_steps = max_steps
        self.minibatch_size = minibatch_size
        self.micro_batch_tokens = micro_batch_tokens
        self.train_split = train_split
        self.held_out_splits, self.test_splits = tuple(held_out_splits), tuple(test_splits)
        self.predict_split = predict_split
        self.held_out_repeats = held_out_repeats
        self.held_out_tasks = held_out_tasks
        self.group_sampler = group_sampler
        self.carry_over = carry_over
        self.num_slots = num_slots
        self.workers = workers
        self.deadlines = deadlines
        self.max_retries = max_retries
        self.deterministic = deterministic
        self.seed = seed
        self.allow_shared_tasks = allow_shared_tasks
        self._check_arguments()
        self.panels: dict[str, TaskPanel] = {}
        self.should_stop: Callable[[], bool] = never
        self._success_watch = SuccessWatch()
        self._minibatches: list[Minibatch] = []
        self._pools, self._carried = dict[str, EnvironmentPool](), CarriedState()

    def _check_arguments(self) -> None:
        check_count("group_size", self.group_size, 2, why="a group of one has nothing to be compared with")
        for name in ("tasks_per_epoch", "max_steps", "micro_batch_tokens", "held_out_repeats"):
            check_count(name, getattr(self, name), 1)
        for name in ("minibatch_size", "held_out_tasks", "num_slots"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), 1)
        for name in ("workers", "max_retries"):
            check_count(name, getattr(self, name), 0)
        check_seed(self.seed)
        if self.carry_over is not None and self.carry_over.extra_groups > self.tasks_per_epoch:
            raise ValueError(
                f"carry_over.extra_groups must be <= tasks_per_epoch {self.tasks_per_epoch}, got "
                f"{self.carry_over.extra_groups}: groups would be complete for longer than an epoch before their update"
            )
        if not self.allow_shared_tasks:
            for name in ("held_out_splits", "test_splits"):
                check_split_names(name, getattr(self, name), self.train_split)

    def prepare_data(self) -> None:
        """Make or check the data on disk."""
        self.tasks.prepare()

    def setup(self, stage: str) -> None:
        """Read the panels that the stage plays.

        Raises:
            ValueError: If the source does not know a split, held-out splits share tasks with others, or an epoch wants
                more tasks than the training panel holds or fewer than there are ranks.
        """
        if stage == "fit":
            check_share(self.tasks_per_epoch, self._trainer().world_size)
        splits = {
            "fit": (self.train_split, *self.held_out_splits),
            "validate": self.held_out_splits,
            "test": self.test_splits,
            "predict": (self.predict_split,),
        }[stage]
        for split in splits:
            if split not in self.panels:
                self.panels[split] = read_panel(self.tasks, split)
        if stage == "fit" and self.tasks_per_epoch > len(self.panels[self.train_split]):
            raise ValueError(
                f"tasks_per_epoch must be <= the {len(self.panels[self.train_split])} tasks of split "
                f"{self.train_split!r}, got {self.tasks_per_epoch}"
            )
        if stage != "predict" and not self.allow_shared_tasks:
            panels = with_training_panel(self.panels, self.tasks, self.train_split)
            name = "test_splits" if stage == "test" else "held_out_splits"
            check_apart(name, getattr(self, name), panels, self.train_split)

    def train_dataloader(self) -> DataLoader[Minibatch]:
        """One epoch's minibatches, played when first asked for."""
        return stream(self._epoch_minibatches)

    def val_dataloader(self) -> list[DataLoader[HeldOutEpisodes]]:
        """One loader a held-out split."""
        return [stream(partial(self._held_out, split)) for split in self.held_out_splits]

    def test_dataloader(self) -> list[DataLoader[HeldOutEpisodes]]:
        """One loader a test split."""
        return [stream(partial(self._held_out, split)) for split in self.test_splits]

    def predict_dataloader(self) -> DataLoader[HeldOutEpisodes]:
        """The predict split's episodes."""
        return stream(partial(self._held_out, self.predict_split))

    def teardown(self, stage: str) -> None:
        """End the environments; the engine stays for a next stage."""
        self._close_pools()

    def on_exception(self, exception: BaseException) -> None:
        """End the environments of a broken rollout, and the ranks that would wait for this one in vain."""
        self._close_pools()
        end_processes(getattr(self._trainer().strategy.launcher, "procs", ()))

    def _close_pools(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools = {}
        if self.carry_over is not None:
            self._carried.lose_environments(self._module().iteration)

    def state_dict(self) -> dict[str, Any]:
        """The episodes that the epoch began with; of one that has been played but not learnt from, not its own."""
        if self.carry_over is None:
            return {}
        return self._carried.state_dict(self._module().iteration, self.group_size)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back; the next rollout brings new environments to where theirs were."""
        trainer, panel = self._trainer(), self.panels.get(self.train_split)
        if self.carry_over is not None and panel is not None:
            ranks = trainer.global_rank, trainer.world_size
            self._carried.load(state_dict, panel, self._module().iteration, self.group_size, *ranks)

    def rollout(self) -> Rollout:
        """Play the current epoch's rollout, or return it if it has been played."""
        trainer, module = self._trainer(), self._module()
        last = self.last_rollout
        if last is not None and (last.epoch, last.policy_version) == (module.iteration, module.policy_version):
            return last
        epoch = module.iteration
        started = time.perf_counter()
        played = play_unless_stopped(partial(self._played_groups, epoch), self.should_stop)
        self._success_watch.look_at(played.progress)
        ended = time.perf_counter()
        table = StepTable.from_groups(played.groups)
        credit = module.credit.estimate(table)
        self.last_rollout = Rollout(
            epoch=epoch,
            policy_version=module.policy_version,
            groups=tuple(played.groups),
            discarded=tuple(played.discarded),
            rounds=played.rounds,
            table=table,
            credit=credit,
            progress=played.progress,
            rollout_seconds=ended - started,
            credit_seconds=time.perf_counter() - ended,
            temperature=self.sampling.temperature,
        )
        minibatches = make_minibatches(
            played.groups,
            credit,
            pad_token_id=module.policy.tokenizer.pad_token_id,
            temperature=self.sampling.temperature,
            minibatch_size=self.minibatch_size,
            micro_batch_tokens=self.micro_batch_tokens,
            seed=noise_seed(self.seed, epoch, "minibatches"),
            layout=module.policy.layout,
            rank=trainer.global_rank,
        )
        self._minibatches = module.prepare(minibatches)
        return self.last_rollout

    def _played_groups(self, epoch: int) -> PlayedGroups:
        """Play this rank's share of the epoch's tasks, and others for the groups that the sampler discards."""
        panel = self.panels[self.train_split]
        rank, ranks = self._trainer().global_rank, self._trainer().world_size
        dealt = epoch_tasks(panel, self.tasks_per_epoch, epoch, self.seed)
        collector = self._collector(self.sampling, "rollout", self.should_stop)
        carried = self._carried.play(epoch)
        if self.carry_over is not None:
            carried.oldest = epoch - self.carry_over.max_staleness + 1

        begun: list[Task] = []  # a task that was begun twice in an epoch would have the same noise twice

        def others(played: Sequence[Task], missing: int) -> Sequence[Task]:
            under_way = [group.task for group in carried.groups]
            known = [*dealt, *played, *begun, *under_way]
            return more_tasks(panel, known, max(0, missing), epoch, self.seed, rank, ranks)

        def play(tasks: Sequence[Task]) -> tuple[list[TrajectoryGroup], RolloutProgress]:
            name, wanted = f"epoch {epoch}", len(tasks)
            if self.carry_over is None:
                begun.extend(tasks)
                return collector.play(tasks, self.group_size, noise_key=epoch, name=name)
            extra = len(range(rank, self.carry_over.extra_groups, ranks))
            tasks = [*tasks, *others(tasks, extra - len(carried.groups))]
            begun.extend(tasks)
            return collector.play(tasks, self.group_size, noise_key=epoch, name=name, carried=carried, wanted=wanted)

        return play_groups(play, dealt[rank::ranks], others, self.group_sampler)

    def _epoch_minibatches(self) -> Iterator[Minibatch]:
        epochs, done = self._trainer().max_epochs, self._trainer().fit_loop.epoch_progress.current.processed
        if epochs is not None and 0 <= epochs <= done:
            return  # Lightning asks for an epoch's data before it finds that a resumed run was at its end
        self.rollout()
        yield from self._minibatches

    def _held_out(self, split: str) -> Iterator[HeldOutEpisodes]:
        """Play every task of a split as often as asked for, with the same noise in every evaluation."""
        trainer, module = self._trainer(), self._module()
        tasks: Sequence[Task] = self.panels[split].tasks[: self.held_out_tasks]
        shard = tasks[trainer.global_rank :: trainer.world_size]
        # Carried episodes keep their slots: an evaluation has environments of its own beside them.
        collector = self._collector(self.held_out_sampling, "rollout" if self.carry_over is None else "evaluation")
        groups, progress = collector.play(shard, self.held_out_repeats, noise_key=f"held-out/{split}", name=split)
        self._success_watch.look_at(progress)
        if progress.dropped:
            raise RunError(
                f"an evaluation must play every task of split {split!r}, but the environment failed again and again on "
                f"{len(shard) - len(groups)} of {len(shard)}; the log names them"
            )
        yield HeldOutEpisodes(
            split=split,
            policy_version=module.policy_version,
            temperature=self.held_out_sampling.temperature,
            groups=tuple(groups),
            seconds=progress.seconds,
        )

    def _collector(self, sampling: SamplingParameters, pool: str, interrupted: Callable[[], bool] = never) -> Collector:
        """A collector on an engine that is proved to have the module's weights.

        Raises:
            RunError: If the engine's weights are not the module's.
            ValueError: If the policy's tokenizer does not know the prompt's markers.
        """
        module = self._module()
        check_markers(self.prompt, module.policy.tokenizer.is_unknown)  # before an engine takes its time to start
        if self.before_rollout is not None:
            self.before_rollout()
        if self.engine.policy_version != module.policy_version:
            raise RunError(
                f"a rollout needs the module's weights, version {module.policy_version}, but the engine has version "
                f"{self.engine.policy_version}; add callbacks.WeightSync to trainer.callbacks"
            )
        if pool not in self._pools:
            self._pools[pool] = make_pool(self.environment, self._slots(), self.workers, self.deadlines)
        return Collector(
            engine=self.engine,
            pool=self._pools[pool],
            prompt=self.prompt,
            tokenizer=module.policy.tokenizer,
            sampling=sampling,
            max_steps=self.max_steps,
            seed=self.seed,
            max_retries=self.max_retries,
            deterministic=self.deterministic,
            interrupted=interrupted,
        )

    def _slots(self) -> int:
        """Episodes that may be under way on this rank."""
        if self.num_slots is not None:
            return self.num_slots
        groups = self.tasks_per_epoch + (self.carry_over.extra_groups if self.carry_over else 0)
        ranks: int = self._trainer().world_size
        return -(-groups // ranks) * self.group_size

    def _trainer(self) -> Any:
        if self.trainer is None:
            raise RuntimeError("RolloutDataModule plays episodes only under a Trainer")
        return self.trainer

    def _module(self) -> GiGPOModule:
        return cast("GiGPOModule", self._trainer().lightning_module)
