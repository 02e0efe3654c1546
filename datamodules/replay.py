"""The DataModule that trains from rollouts that were played before, without an engine or an environment."""

import re
import time
from collections.abc import Iterator
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.stream import stream
from gigpo_lightning.batch import Minibatch, make_minibatches
from gigpo_lightning.errors import check_count, check_seed
from gigpo_lightning.ranks import end_processes
from gigpo_lightning.rollout.episode import noise_seed
from gigpo_lightning.rollout.progress import RolloutProgress
from gigpo_lightning.rollout.record import Rollout
from gigpo_lightning.rollout.store import check_trajectories, read_trajectories
from gigpo_lightning.rollout.stored_rows import PolicyLimits
from gigpo_lightning.trajectory import StepTable, TrajectoryGroup
from modules import GiGPOModule, Policy

_NAME = re.compile(r"epoch_(\d+)(?:\.(\d+))?\.parquet")


class ReplayDataModule(LightningDataModule):
    """Trains on the episodes that a run's ``Transcripts`` wrote: its epoch N on the file of epoch N.

    Credit is assigned anew, by the module's own estimator. With the settings of the run that wrote the files, and its
    number of ranks, every update is that run's, to the last bit; with another estimator or loss it shows what that
    would have made of them. From the second update on such episodes are another policy's, which the importance ratio
    corrects as far as it is not clipped.

    Rows may be in any order. A file that does not hold a whole rollout, each step once, or holds what this policy
    cannot have been shown or cannot have written, is refused before anything is trained.

    Args:
        folder: Holds ``epoch_0.parquet``, ``epoch_1.parquet`` and so on; of a run with several ranks
            ``epoch_0.0.parquet``, ``epoch_0.1.parquet``, whose groups are put together.
        minibatch_size: Steps of one optimizer step; default: all steps of the epoch.
        micro_batch_tokens: Longest micro-batch, rows times longest row, in tokens.
        seed: Of the minibatches.

    Raises:
        ValueError: If a number is out of its range, or the folder holds no epoch, or lacks the file of a rank.
    """

    def __init__(
        self, folder: str, minibatch_size: int | None = None, micro_batch_tokens: int = 16384, seed: int = 0
    ) -> None:
        super().__init__()
        if minibatch_size is not None:
            check_count("minibatch_size", minibatch_size)
        check_count("micro_batch_tokens", micro_batch_tokens)
        check_seed(seed)
        self.folder = Path(folder)
        self.minibatch_size = minibatch_size
        self.micro_batch_tokens = micro_batch_tokens
        self.seed = seed
        self.last_rollout: Rollout | None = None
        self._minibatches: list[Minibatch] = []
        if not self.files:
            raise ValueError(f"folder must hold epoch_0.parquet and so on, found none in {str(folder)!r}")

    @cached_property
    def files(self) -> dict[int, list[Path]]:
        """The file of each epoch; of a run with several ranks, those of each, in their order."""
        found = ((_NAME.fullmatch(path.name), path) for path in self.folder.glob("epoch_*.parquet"))
        files: dict[int, list[Path]] = {}
        for epoch, _, path in sorted((int(match[1]), int(match[2] or 0), path) for match, path in found if match):
            files.setdefault(epoch, []).append(path)
        self._check_ranks(files)
        return files

    def _check_ranks(self, files: dict[int, list[Path]]) -> None:
        """Refuse epochs that would be trained on in part, or twice."""
        several = max(map(len, files.values()), default=1)
        for epoch, found in files.items():
            wanted = [f"epoch_{epoch}.{rank}.parquet" for rank in range(several)]
            wanted = wanted if several > 1 else [f"epoch_{epoch}.parquet"]
            names = [path.name for path in found]
            if names != wanted:
                raise ValueError(
                    f"folder must hold one file of each rank for every epoch, {', '.join(wanted)}, got "
                    f"{', '.join(names)} in {str(self.folder)!r}"
                )

    def setup(self, stage: str) -> None:
        """Refuse what the files cannot serve.

        Raises:
            ValueError: If an epoch that the run wants has no file, or the stage is not ``fit``.
        """
        if stage != "fit":
            raise ValueError(f"ReplayDataModule only trains; {stage} plays episodes and needs RolloutDataModule")
        epochs = self._trainer().max_epochs
        missing = [epoch for epoch in range(epochs) if epoch not in self.files]
        if epochs < 0 or missing:
            raise ValueError(
                f"trainer.max_epochs must be at most the epochs in {str(self.folder)!r}, got {epochs}: there is no "
                f"file of epoch {missing[0] if missing else max(self.files) + 1}"
            )

    def train_dataloader(self) -> DataLoader[Minibatch]:
        """One epoch's minibatches, read when first asked for; the files of all epochs are checked first.

        Raises:
            ValueError: If a file is refused, as by ``check_trajectories``.
        """
        module = cast("GiGPOModule", self._trainer().lightning_module)
        for epoch in range(module.iteration, self._trainer().max_epochs):
            for path in self.files[epoch]:
                check_trajectories(path, _limits(module.policy))
        return stream(self._epoch_minibatches)

    def on_exception(self, exception: BaseException) -> None:
        """End the ranks that would wait for this one in vain."""
        end_processes(getattr(self._trainer().strategy.launcher, "procs", ()))

    def minibatches(self) -> list[Minibatch]:
        """The current epoch's; read once, however often Lightning asks."""
        module = cast("GiGPOModule", self._trainer().lightning_module)
        if self.last_rollout is not None and self.last_rollout.epoch == module.iteration:
            return self._minibatches
        epoch, started = module.iteration, time.perf_counter()
        every_group, temperature = self._read(epoch)
        groups = every_group[self._trainer().global_rank :: self._trainer().world_size]
        if not groups:
            raise ValueError(
                f"trainer.devices times trainer.num_nodes must be <= the {len(every_group)} groups in "
                f"{self.files[epoch][0]}, got {self._trainer().world_size}: each rank trains on whole groups"
            )
        read = time.perf_counter()
        table = StepTable.from_groups(groups)
        credit = module.credit.estimate(table)
        self.last_rollout = Rollout(
            epoch=epoch,
            policy_version=int(table.policy_version.max()),
            groups=tuple(groups),
            table=table,
            credit=credit,
            progress=RolloutProgress(name=f"epoch {epoch}", total=sum(len(group.trajectories) for group in groups)),
            rollout_seconds=read - started,
            credit_seconds=time.perf_counter() - read,
            temperature=temperature,
        )
        self._minibatches = module.prepare(
            make_minibatches(
                groups,
                credit,
                pad_token_id=module.policy.tokenizer.pad_token_id,
                temperature=temperature,
                minibatch_size=self.minibatch_size,
                micro_batch_tokens=self.micro_batch_tokens,
                seed=noise_seed(self.seed, epoch, "minibatches"),
                layout=module.policy.layout,
                rank=self._trainer().global_rank,
            )
        )
        return self._minibatches

    def _read(self, epoch: int) -> tuple[list[TrajectoryGroup], float]:
        """An epoch's groups in the order of its tasks, which ranks were dealt in turn, and their temperature."""
        parts = [read_trajectories(path) for path in self.files[epoch]]
        for path, (_, temperature) in zip(self.files[epoch], parts, strict=True):
            if temperature != parts[0][1]:
                first = f"{parts[0][1]}, as in {self.files[epoch][0].name}"
                raise ValueError(f"{path}, column temperature: must be {first}, got {temperature}")
        turns = zip_longest(*(groups for groups, _ in parts))
        return [group for turn in turns for group in turn if group is not None], parts[0][1]

    def _epoch_minibatches(self) -> Iterator[Minibatch]:
        yield from self.minibatches()

    def _trainer(self) -> Any:
        if self.trainer is None:
            raise RuntimeError("ReplayDataModule trains only under a Trainer")
        return self.trainer


def _limits(policy: Policy) -> PolicyLimits:
    """What the policy's embedding and positions can take."""
    config = policy.model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    return PolicyLimits(vocabulary_size=int(config.vocab_size), context=None if context is None else int(context))
