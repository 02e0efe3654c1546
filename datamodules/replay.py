"""The DataModule that reads stored rollouts, without an engine or an environment."""

import re
import time
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from torch.utils.data import DataLoader

from callbacks.lightning_internals import typed
from datamodules.stream import ExperienceDataModule
from gigpo_lightning.algorithm.token_credit import TokenCredit
from gigpo_lightning.batch import Minibatch, MinibatchBy
from gigpo_lightning.experience import Batching, Experience, StepScorer
from gigpo_lightning.ranks import place
from gigpo_lightning.rollout.group_sampler import PlayedGroups
from gigpo_lightning.rollout.progress import RolloutProgress
from gigpo_lightning.rollout.store import check_trajectories, read_trajectories
from gigpo_lightning.rollout.stored_rows import PolicyLimits
from gigpo_lightning.trajectory import TrajectoryGroup
from modules import Policy

_NAME = re.compile(r"epoch_(\d+)(?:\.(\d+))?\.parquet")


class ReplayDataModule(ExperienceDataModule):
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
        scorers: Give every step numbers before credit is assigned; there is nobody to ask for log-probabilities.
        token_credit: Spreads the advantage of a step over its tokens; default: each token has its step's.
        minibatch_by: What is shuffled and stays whole: ``steps``, or ``episodes``, whose beginnings are then computed
            once; minibatches of episodes have about ``minibatch_size`` steps.

    Raises:
        ValueError: If a number is out of its range, or the folder holds no epoch, or lacks the file of a rank.
    """

    def __init__(
        self,
        folder: str,
        minibatch_size: int | None = None,
        micro_batch_tokens: int = 16384,
        seed: int = 0,
        scorers: list[StepScorer] | None = None,
        token_credit: TokenCredit | None = None,
        minibatch_by: MinibatchBy = "steps",
    ) -> None:
        batching = Batching(
            minibatch_size=minibatch_size,
            micro_batch_tokens=micro_batch_tokens,
            seed=seed,
            token_credit=token_credit,
            minibatch_by=minibatch_by,
        )
        super().__init__(batching, scorers)
        self.folder = Path(folder)
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
        if typed(self._trainer()).overfit_batches:
            raise ValueError("trainer.overfit_batches must be left out with ReplayDataModule, which has its episodes")
        epochs = self._trainer().max_epochs or 0
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
        module = self._module()
        for epoch in range(module.iteration, self._trainer().max_epochs or 0):
            for path in self.files[epoch]:
                check_trajectories(path, _limits(module.policy))
        return super().train_dataloader()

    def make_experience(self, epoch: int) -> Experience:
        """Read an epoch's episodes, and assign their credit anew."""
        started = time.perf_counter()
        rank, ranks = place()
        every_group, temperature = self._read(epoch)
        groups = every_group[rank::ranks]
        if not groups:
            raise ValueError(
                f"trainer.devices times trainer.num_nodes must be <= the {len(every_group)} groups in "
                f"{self.files[epoch][0]}, got {ranks}: each rank trains on whole groups"
            )
        progress = RolloutProgress(name=f"epoch {epoch}", total=sum(len(group.trajectories) for group in groups))
        seconds = time.perf_counter() - started
        played = PlayedGroups(groups=tuple(groups), progress=progress, seconds=seconds)
        return Experience.of(played, self._module().credit, epoch=epoch, temperature=temperature, scorers=self.scorers)

    def _read(self, epoch: int) -> tuple[list[TrajectoryGroup], float]:
        """An epoch's groups in the order of its tasks, which ranks were dealt in turn, and their temperature."""
        parts = [read_trajectories(path) for path in self.files[epoch]]
        for path, (_, temperature) in zip(self.files[epoch], parts, strict=True):
            if temperature != parts[0][1]:
                first = f"{parts[0][1]}, as in {self.files[epoch][0].name}"
                raise ValueError(f"{path}, column temperature: must be {first}, got {temperature}")
        turns = zip_longest(*(groups for groups, _ in parts))
        return [group for turn in turns for group in turn if group is not None], parts[0][1]


def _limits(policy: Policy) -> PolicyLimits:
    """What the policy's embedding and positions can take."""
    config = policy.model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    return PolicyLimits(vocabulary_size=int(config.vocab_size), context=None if context is None else int(context))
