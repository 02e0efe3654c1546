"""What vLLM's sender reads the trainer's weights from, for each form of its interface."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from torch import Tensor

from gigpo_lightning.engines.weight_stream import WeightStream


class _Weights:
    """The weights of one round after the other, whatever vLLM calls them by."""

    _stream: WeightStream | None = None

    def send_next(self, stream: WeightStream) -> None:
        """Have the next round send these."""
        self._stream = stream
        self.__dict__.pop("metadata", None)  # what a cached property remembers of the last round

    def _described(self, described_by: Any) -> list[Any]:
        stream = self._waiting()
        return [described_by(name, stream.dtypes[name], tuple(shape)) for name, shape in stream.shapes.items()]

    def _read(self) -> Iterator[tuple[str, Tensor]]:
        for name, weight in self._waiting():
            sent = _on_gpu(weight)
            del weight
            yield name, sent
            del sent

    def _waiting(self) -> WeightStream:
        if self._stream is None:
            raise RuntimeError("send_next must say which weights are to be sent")
        return self._stream


def weight_source(base: Any) -> Any:
    """A ``WeightSource`` of vLLM's ``distributed.weight_transfer.base``, with ``send_next``.

    vLLM 0.30 to 0.32 calls ``metadata()`` and iterates over the source; 0.33 reads ``metadata`` as a property that is
    worked out once, and iterates over ``iter_full()``. Which of them it is, its base class says.
    """
    if hasattr(base.WeightSource, "iter_full"):

        class NewWeights(_Weights, base.WeightSource):  # type: ignore[misc]
            @cached_property
            def metadata(self) -> list[Any]:
                return self._described(base.ParamMeta)

            def iter_full(self) -> Iterator[tuple[str, Tensor]]:
                return self._read()

        return NewWeights()

    class OldWeights(_Weights, base.WeightSource):  # type: ignore[misc]
        def metadata(self) -> list[Any]:
            return self._described(base.ParamMeta)

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            return self._read()

    return OldWeights()


def _on_gpu(weight: Tensor) -> Tensor:
    return weight.cuda()
