"""The DataModule that streams a player's fresh episodes of each epoch as minibatches."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import gymnasium
from torch.utils.data import DataLoader

from callbacks.lightning_internals import typed
from datamodules.stream import ExperienceDataModule, stream
from gigpo_lightning.algorithm.token_credit import TokenCredit
from gigpo_lightning.batch import MinibatchBy
from gigpo_lightning.engines.base import RolloutEngine
from gigpo_lightning.environments.base import TaskSource
from gigpo_lightning.environments.splits import check_apart, check_split_names, with_training_panel
from gigpo_lightning.experience import Batching, Experience, StepScorer
from gigpo_lightning.interruption import AsksToStop, play_unless_stopped
from gigpo_lightning.prompts.base import Prompt
from gigpo_lightning.ranks import gather, interleave, place
from gigpo_lightning.rollout.player import HeldOutGroups, RolloutPlayer
from gigpo_lightning.rollout.sync import EngineSync

_logger = logging.getLogger(__name__)


class RolloutDataModule(ExperienceDataModule):
    """Streams fresh rollouts: one epoch is one iteration of GiGPO.

    Each epoch's rollout is played exactly once, however often Lightning asks for the data, and only on an engine
    whose weights are the module's. The arguments of ``gigpo_lightning.rollout.RolloutPlayer`` say how it is played.

    Args:
        environment: Prototype of the environment; it is copied into every slot and never reset itself.
        tasks: Where the tasks come from.
        prompt: Template and parser.
        engine: Writes the policy's replies.
        minibatch_size: Steps of one optimizer step, of all ranks; default: all steps of the epoch.
        micro_batch_tokens: Longest micro-batch, rows times longest row, in tokens.
        held_out_splits: Splits that ``validate``, and evaluation during ``fit``, play.
        test_splits: Splits that ``test`` plays.
        predict_split: Split that ``predict`` plays.
        allow_shared_tasks: Let held-out and test splits share tasks with each other and with the training split.
        scorers: Give every step numbers before credit is assigned, such as ``gigpo_lightning.scorers.SampledEntropy``.
        token_credit: Spreads the advantage of a step over its tokens; default: each token has its step's.
        minibatch_by: What is shuffled and stays whole: ``steps``, or ``episodes``, whose beginnings are then computed
            once; minibatches of episodes have about ``minibatch_size`` steps.
        **player: The other arguments of ``RolloutPlayer``.

    Raises:
        ValueError: If a number is out of its range, or a held-out split is named twice or is the training split.
    """

    def __init__(
        self,
        environment: gymnasium.Env,
        tasks: TaskSource,
        prompt: Prompt,
        engine: RolloutEngine,
        minibatch_size: int | None = None,
        micro_batch_tokens: int = 16384,
        held_out_splits: Sequence[str] = ("valid_seen",),
        test_splits: Sequence[str] = ("valid_unseen",),
        predict_split: str = "valid_unseen",
        allow_shared_tasks: bool = False,
        scorers: list[StepScorer] | None = None,
        token_credit: TokenCredit | None = None,
        minibatch_by: MinibatchBy = "steps",
        **player: Any,
    ) -> None:
        self.player = RolloutPlayer(environment, tasks, prompt, engine, **player)
        seed = self.player.seed
        batching = Batching(
            minibatch_size=minibatch_size,
            micro_batch_tokens=micro_batch_tokens,
            seed=seed,
            token_credit=token_credit,
            minibatch_by=minibatch_by,
        )
        super().__init__(batching, scorers)
        self.held_out_splits, self.test_splits = tuple(held_out_splits), tuple(test_splits)
        self.predict_split = predict_split
        self.allow_shared_tasks = allow_shared_tasks
        if not allow_shared_tasks:
            for name in ("held_out_splits", "test_splits"):
                check_split_names(name, getattr(self, name), self.player.train_split)

    def prepare_data(self) -> None:
        """Make or check the data on disk."""
        self.player.tasks.prepare()

    def setup(self, stage: str) -> None:
        """Read the panels that the stage plays.

        Raises:
            ValueError: If the source does not know a split, held-out splits share tasks with others, or an epoch wants
                more tasks than the training panel holds or fewer than there are ranks.
        """
        player, trainer = self.player, typed(self._trainer())
        if stage == "fit":
            player.same_tasks = int(trainer.overfit_batches) or None
        if player.same_tasks:
            trainer.limit_train_batches = 1.0  # Lightning would cut the epoch after as many minibatches
        splits = {
            "fit": (player.train_split, *self.held_out_splits),
            "validate": self.held_out_splits,
            "test": self.test_splits,
            "predict": (self.predict_split,),
        }[stage]
        player.read_panels(splits, training=stage == "fit")
        if stage != "predict" and not self.allow_shared_tasks:
            panels = with_training_panel(player.panels, player.tasks, player.train_split)
            name = "test_splits" if stage == "test" else "held_out_splits"
            check_apart(name, getattr(self, name), panels, player.train_split)
        for callback in self._callbacks():
            if isinstance(callback, EngineSync):
                player.sync = callback

    def val_dataloader(self) -> list[DataLoader[HeldOutGroups]]:
        """One loader a held-out split."""
        return [stream(partial(self._held_out, split)) for split in self.held_out_splits]

    def test_dataloader(self) -> list[DataLoader[HeldOutGroups]]:
        """One loader a test split."""
        return [stream(partial(self._held_out, split)) for split in self.test_splits]

    def predict_dataloader(self) -> DataLoader[HeldOutGroups]:
        """The predict split's episodes."""
        return stream(partial(self._held_out, self.predict_split))

    def teardown(self, stage: str) -> None:
        """End the environments; the engine stays for a next stage."""
        self.player.close()

    def on_exception(self, exception: BaseException) -> None:
        """End the environments of a broken rollout, and the ranks that would wait for this one in vain."""
        self.player.close()
        super().on_exception(exception)

    def state_dict(self) -> dict[str, Any]:
        """The groups of all ranks that the next epoch goes on with; a run that goes on begins them again."""
        if self.player.carry_over is None:
            return {}
        return {"carried": interleave(gather(self.player.carried_groups(self._module().iteration)))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begin this rank's share of the carried groups again.

        Raises:
            ValueError: If the training split lacks a task of theirs.
        """
        if self.player.carry_over is None or self.player.train_split not in self.player.panels:
            return
        if "carried" not in state_dict:
            _logger.warning(
                "the checkpoint's carried groups are written as an older version did, and are not read: the next epoch "
                "begins new groups, of its own tasks, in their place"
            )
        rank, ranks = place()
        carried = dict.fromkeys(map(tuple, state_dict.get("carried", ())))  # or two would have the same noise
        self.player.begin_again(list(carried)[rank::ranks])

    def make_experience(self, epoch: int) -> Experience:
        """Play an epoch on the module's weights, and assign its credit; what one rank is asked to drop, all drop."""
        module, profiler, should_stop = self._module(), typed(self._trainer()).profiler, self._should_stop()
        with profiler.profile("rollout"):
            played = play_unless_stopped(partial(self.player.play, epoch, module, should_stop), should_stop)
        temperature = self.player.sampling.temperature
        with profiler.profile("credit"):
            return Experience.of(
                played,
                module.credit,
                epoch=epoch,
                policy_version=module.policy_version,
                temperature=temperature,
                scorers=self.scorers,
                policy=self.player.engine,
            )

    def _held_out(self, split: str) -> Iterator[HeldOutGroups]:
        yield self.player.evaluate(split, self._module(), self._should_stop())

    def _should_stop(self) -> Callable[[], bool]:
        """Whether a callback knows that the run is to stop; asked at every turn."""
        asks = [callback.should_stop for callback in self._callbacks() if isinstance(callback, AsksToStop)]
        return lambda: any([ask() for ask in asks])
