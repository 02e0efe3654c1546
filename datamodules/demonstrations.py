"""The DataModule that serves demonstrations for a warm start, and plays held-out tasks to say what it was worth."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from callbacks.lightning_internals import batches_done, epochs_done, typed
from datamodules.example_batches import ExampleBatches
from datamodules.stream import stream
from gigpo_lightning.environments.splits import check_split_names
from gigpo_lightning.errors import check_count, check_seed
from gigpo_lightning.imitation import DemonstrationSource, Example
from gigpo_lightning.ranks import end_processes, place
from gigpo_lightning.rollout.player import HeldOutGroups, RolloutPlayer
from gigpo_lightning.rollout.sync import EngineSync
from gigpo_lightning.token_trees import RowRules
from modules import BehaviourCloningModule

_logger = logging.getLogger(__name__)


class DemonstrationDataModule(LightningDataModule):
    """Serves demonstrations shuffled, in batches of like length, and measures what they teach on held-out ones.

    Args:
        demonstrations: Where they come from, such as ``gigpo_lightning.imitation.ChatMessages``.
        player: Plays held-out tasks in every evaluation, on an engine that has the policy's weights; default: only the
            loss is measured. Of its arguments the training's, such as ``tasks_per_epoch``, say only how many episodes
            run at the same time.
        held_out_splits: Splits that the player plays.
        batch_size: Rows of a batch.
        max_tokens: Longest row; longer ones are left out, and the log says how many. Default: the policy's context.
        share_prompts: Put the replies to one prompt into one batch, and compute once what sequences begin with alike.
        seed: Of the order of the rows, and of whatever the source or the player draws.

    Raises:
        ValueError: If a number is out of its range, or a held-out split is named twice or is the training split.
    """

    def __init__(
        self,
        demonstrations: DemonstrationSource,
        player: RolloutPlayer | None = None,
        held_out_splits: Sequence[str] = ("valid_seen",),
        batch_size: int = 128,
        max_tokens: int | None = None,
        share_prompts: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_count("batch_size", batch_size)
        if max_tokens is not None:
            check_count("max_tokens", max_tokens, 2)
        check_seed(seed)
        self.demonstrations = demonstrations
        self.player = player
        self.held_out_splits = tuple(held_out_splits)
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.share_prompts = share_prompts
        self.seed = seed
        if player is not None:
            check_split_names("held_out_splits", self.held_out_splits, player.train_split)
            player.seed = seed
        self._rows: dict[bool, list[Example]] = {}

    def prepare_data(self) -> None:
        """Make or check the data on disk."""
        self.demonstrations.prepare()
        if self.player is not None:
            self.player.tasks.prepare()

    def setup(self, stage: str) -> None:
        """Read the panels that evaluations play, and find the callback that syncs the engine, if there is one."""
        if self.player is None:
            return
        self.player.read_panels(self.held_out_splits, training=False)
        for callback in typed(self._trainer()).callbacks:
            if isinstance(callback, EngineSync):
                self.player.sync = callback

    def train_dataloader(self) -> ExampleBatches:
        """The demonstrations, in a new order every epoch; each rank has its share of the batches.

        Raises:
            ValueError: If there is nothing to learn from.
        """
        rows = self.rows(held_out=False)
        if not rows:
            raise ValueError("demonstrations must hold a row to learn from, got none")
        rank, ranks = place()
        trainer = self._trainer()
        return self._batches(
            rows, epoch=lambda: epochs_done(trainer), done=lambda: batches_done(trainer), rank=rank, ranks=ranks
        )

    def val_dataloader(self) -> list[Any]:
        """Held-out demonstrations, if there are any, and then the held-out tasks of each split, played."""
        rows = self.rows(held_out=True)
        loaders: list[Any] = [self._batches(rows)] if rows else []
        return loaders + self._played()

    def on_exception(self, exception: BaseException) -> None:
        """End the environments of a broken evaluation, and the ranks that would wait for this one in vain."""
        if self.player is not None:
            self.player.close()
        end_processes(getattr(self._trainer().strategy.launcher, "procs", ()))

    def teardown(self, stage: str) -> None:
        """End the environments; the engine stays for a next stage."""
        if self.player is not None:
            self.player.close()

    def rows(self, *, held_out: bool) -> list[Example]:
        """The rows of one part, read or played when first asked for."""
        if held_out not in self._rows:
            found = self.demonstrations.episodes(self._module().tokenizer, held_out=held_out, seed=self.seed)
            self._rows[held_out] = self._short_enough([row for episode in found for row in episode], held_out)
        return self._rows[held_out]

    def _short_enough(self, rows: list[Example], held_out: bool) -> list[Example]:
        """The rows that the policy can read; the log says how many there are, and how many are too long."""
        config = self._module().policy.model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None)
        limit = self.max_tokens if self.max_tokens is not None else context
        kept = rows if limit is None else [row for row in rows if row.num_tokens <= limit]
        what = "held out" if held_out else "to learn from"
        written = sum(sum(row.written) if row.written is not None else len(row.reply_ids) for row in kept)
        _logger.info(
            "%d rows %s: %d tokens, of which the policy writes %d",
            len(kept),
            what,
            sum(row.num_tokens for row in kept),
            written,
        )
        if len(kept) < len(rows):
            _logger.warning("%d rows %s are longer than %d tokens, and left out", len(rows) - len(kept), what, limit)
        return kept

    def _batches(self, rows: Sequence[Example], **place: Any) -> ExampleBatches:
        policy = self._module().policy
        rules = policy.row_rules if self.share_prompts and policy.row_rules.shared else RowRules(shared=False)
        return ExampleBatches(
            rows, self.batch_size, policy.tokenizer.pad_token_id, seed=self.seed, rules=rules, **place
        )

    def _played(self) -> list[DataLoader[HeldOutGroups]]:
        if self.player is None:
            return []
        return [stream(partial(self._held_out, self.player, split)) for split in self.held_out_splits]

    def _held_out(self, player: RolloutPlayer, split: str) -> Iterator[HeldOutGroups]:
        yield player.evaluate(split, self._module())

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError("DemonstrationDataModule serves demonstrations only under a Trainer")
        return self.trainer

    def _module(self) -> BehaviourCloningModule:
        return cast("BehaviourCloningModule", self._trainer().lightning_module)
