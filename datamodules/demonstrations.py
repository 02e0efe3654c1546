"""The DataModule that plays an expert's demonstrations for a warm start."""

import logging
import random
from collections.abc import Iterator, Sequence
from typing import cast

import gymnasium
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from gigpo_lightning.demonstrations import Demonstration, Expert, demonstrate
from gigpo_lightning.environments.base import TaskPanel, TaskSource
from gigpo_lightning.environments.splits import check_apart, check_split_names, read_panel
from gigpo_lightning.errors import check_count, check_range, check_seed
from gigpo_lightning.prompts.base import NoRoomError, Prompt, ReplyWriter
from gigpo_lightning.token_batch import TokenBatch, make_token_batch
from modules import Policy
from modules.policy_module import PolicyModule

_logger = logging.getLogger(__name__)
_BUCKETS = 16  # batches that are sorted by length together

Pair = tuple[tuple[int, ...], tuple[int, ...]]


class DemonstrationDataModule(LightningDataModule):
    """Plays demonstrations once, then serves them shuffled, in batches of like length.

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
        batch_size: Rows of a batch.
        seed: Of the detours and the order.
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
        batch_size: int = 128,
        seed: int = 0,
        allow_shared_tasks: bool = False,
    ) -> None:
        super().__init__()
        least = {"episodes_per_task": episodes_per_task, "held_out_tasks": held_out_tasks, "max_steps": max_steps}
        for name, value in (least | {"max_prompt_tokens": max_prompt_tokens, "batch_size": batch_size}).items():
            check_count(name, value)
        check_seed(seed)
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
        self.batch_size = batch_size
        self.seed = seed
        self.allow_shared_tasks = allow_shared_tasks
        self._panels: dict[str, TaskPanel] = {}
        self._pairs: dict[str, list[Pair]] = {}

    def prepare_data(self) -> None:
        """Make or check the data on disk."""
        self.tasks.prepare()

    def setup(self, stage: str) -> None:
        """Read the panels.

        Raises:
            ValueError: If the source does not know a split, or the two share tasks that they must not share.
        """
        self._panels = {name: read_panel(self.tasks, name) for name in (self.split, self.held_out_split)}
        if not self.allow_shared_tasks:
            check_apart("held_out_split", [self.held_out_split], self._panels, self.split)

    def train_dataloader(self) -> DataLoader[TokenBatch]:
        """The demonstrations, in a new order every epoch."""
        return self._loader(self.split, self.episodes_per_task, None, shuffled=True)

    def val_dataloader(self) -> DataLoader[TokenBatch]:
        """Demonstrations of held-out tasks, one episode each."""
        return self._loader(self.held_out_split, 1, self.held_out_tasks, shuffled=False)

    def _loader(self, split: str, episodes: int, limit: int | None, shuffled: bool) -> DataLoader[TokenBatch]:
        assert self.trainer is not None
        policy = cast("PolicyModule", self.trainer.lightning_module).policy
        if split not in self._pairs:
            played = demonstrate(
                self.environment,
                self._panels[split].tasks[:limit] * episodes,
                self.expert,
                detour_probability=self.detour_probability,
                slip_probability=self.slip_probability,
                max_steps=self.max_steps,
                seed=self.seed,
            )
            self._pairs[split] = [self._encode(policy, each) for each in played]
            _logger.info("%d demonstrations of %s", len(self._pairs[split]), split)
        batches = _Batches(self._pairs[split], self.batch_size, policy.tokenizer.pad_token_id, shuffled, self.seed)
        return DataLoader(batches, batch_size=None, num_workers=0)

    def _encode(self, policy: Policy, demonstration: Demonstration) -> Pair:
        tokenizer = policy.tokenizer
        try:
            prompt = self.prompt.encode(demonstration.view, tokenizer, self.max_prompt_tokens)
        except NoRoomError as error:
            raise NoRoomError(f"max_prompt_tokens must have room for every prompt, but: {error}") from error
        reply = demonstration.action
        if isinstance(self.prompt, ReplyWriter):
            reply = self.prompt.write_reply(reply, demonstration.view)
        return prompt.ids, (*tokenizer.encode(reply), tokenizer.end_token_id)


class _Batches(IterableDataset[TokenBatch]):
    """Batches of rows of like length, in a new order every epoch."""

    def __init__(self, pairs: Sequence[Pair], batch_size: int, pad_token_id: int, shuffled: bool, seed: int) -> None:
        self._pairs = pairs
        self._batch_size = batch_size
        self._pad_token_id = pad_token_id
        self._shuffled = shuffled
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return -(-len(self._pairs) // self._batch_size)

    def __iter__(self) -> Iterator[TokenBatch]:
        order = list(range(len(self._pairs)))
        if self._shuffled:
            random.Random(f"{self._seed}/{self._epoch}").shuffle(order)
            self._epoch += 1
        reach = self._batch_size * _BUCKETS
        for start in range(0, len(order), reach):
            bucket = sorted(order[start : start + reach], key=lambda i: len(self._pairs[i][0]))
            batches = [bucket[i : i + self._batch_size] for i in range(0, len(bucket), self._batch_size)]
            if self._shuffled:
                random.Random(f"{self._seed}/{self._epoch}/{start}").shuffle(batches)
            for rows in batches:
                yield make_token_batch([self._pairs[i] for i in rows], self._pad_token_id, "rows")
