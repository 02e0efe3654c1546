"""The trainer's weights on their way to an engine: one after the other, in the engine's types."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

NamedTensors = Iterable[tuple[str, Tensor]]


class WeightStream:
    """Weights that are gathered and cast only when their turn comes.

    Names, shapes and types are known before, without gathering anything: a transport may have to announce them. While a
    stream runs, it holds at most a weight as the trainer has it and its copy in the engine's type.

    Args:
        shapes: Each weight's whole shape, by its checkpoint's name, in the order of ``read``.
        read: Begins to read the weights; each is gathered when it is asked for. Ranks with shares must read together.
        dtypes: The engine's type of each weight.
        watch: Is shown each weight before it is given away.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[], NamedTensors],
        dtypes: Mapping[str, torch.dtype],
        watch: Callable[[str, Tensor], None] | None = None,
    ) -> None:
        self.shapes = dict(shapes)
        self.dtypes = dict(dtypes)
        self._read = read
        self._watch = watch

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Read the weights from the first on."""
        for name, weight in self._read():
            cast = weight.detach().to(self.dtypes[name])
            if self._watch is not None:
                self._watch(name, cast)
            del weight
            yield name, cast
            del cast  # or it would be kept while the next one is gathered
