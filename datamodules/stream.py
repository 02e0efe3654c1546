"""The shared base of the DataModules that feed ``GiGPOModule``: one experience per epoch, streamed as minibatches."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch.utils.data import DataLoader, IterableDataset

from callbacks.lightning_internals import show_length, typed
from gigpo_lightning.batch import Minibatch
from gigpo_lightning.experience import Batching, Experience, StepScorer, WatchesExperience
from gigpo_lightning.ranks import end_processes
from modules import GiGPOModule


class ExperienceDataModule(LightningDataModule):
    """Makes each epoch's experience once, however often Lightning asks for the data, and shows it to the callbacks.

    Args:
        batching: How an epoch's steps are cut into minibatches.
        scorers: Give every step numbers before credit is assigned.

    Attributes:
        experience: The latest epoch's.
    """

    def __init__(self, batching: Batching, scorers: list[StepScorer] | None = None) -> None:
        super().__init__()
        self.batching = batching
        self.scorers = scorers or []
        self.experience: Experience | None = None
        self._made: tuple[int, int] | None = None  # the epoch, and the version of the weights then
        self._minibatches: list[Minibatch] = []

    def make_experience(self, epoch: int) -> Experience:
        """Play or read an epoch's episodes, and assign their credit."""
        raise NotImplementedError

    def current_experience(self) -> Experience:
        """The current epoch's, made now unless it has been made."""
        module = self._module()
        current = module.iteration, module.policy_version
        if self.experience is None or self._made != current:
            self.experience, self._made = self.make_experience(module.iteration), current
            self._minibatches = self.experience.minibatches(module, self.batching, module.progress)
            for callback in self._callbacks():
                if isinstance(callback, WatchesExperience):
                    callback.on_experience(self.experience)
        return self.experience

    def train_dataloader(self) -> DataLoader[Minibatch]:
        """One epoch's minibatches, made when first asked for."""
        return stream(self._epoch_minibatches)

    def on_exception(self, exception: BaseException) -> None:
        """End the ranks that would wait for this one in vain."""
        end_processes(getattr(self._trainer().strategy.launcher, "procs", ()))

    def _epoch_minibatches(self) -> Iterator[Minibatch]:
        epochs = self._trainer().max_epochs
        if epochs is not None and 0 <= epochs <= self._module().iteration:
            return  # Lightning asks for an epoch's data before it finds that a resumed run was at its end
        self.current_experience()
        yield from self._minibatches[:1]
        show_length(self._trainer(), len(self._minibatches))  # in the first epoch there is no bar before
        yield from self._minibatches[1:]

    def _callbacks(self) -> list[Callback]:
        return typed(self._trainer()).callbacks

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError(f"{type(self).__name__} serves episodes only under a Trainer")
        return self.trainer

    def _module(self) -> GiGPOModule:
        return cast("GiGPOModule", self._trainer().lightning_module)


def stream(make: Callable[[], Iterator[Any]]) -> DataLoader[Any]:
    """Make a loader that calls a generator function anew for every epoch: no batching, no workers, no copies.

    It has a random generator of its own, or it would draw a seed for workers that it has not from the process's.
    """
    return DataLoader(_Stream(make), batch_size=None, num_workers=0, generator=torch.Generator())


class _Stream(IterableDataset[Any]):
    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return self._make()
