"""Proof, bit by bit, that an engine holds the weights that it was sent.

An engine keeps weights in its own form: fused with their neighbours, split over devices, or packed for a CPU's matrix
units. It says which ``Piece`` of which checkpoint tensor it holds, and gives a checksum of each. The trainer computes
the same checksums of what it sends. They must be equal; there is no tolerance.

Shape letters: R = rows of a piece, C = its columns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gigpo_lightning.errors import RunError

SAMPLED_COLUMNS = 64
"""Columns of a packed weight that a sync looks at; a narrower weight is looked at whole."""

_CHUNK = 1 << 22  # numbers whose bits are spread out at once: 32 MiB

Shapes = Mapping[str, Sequence[int]]
"""Whole shapes of the tensors that were sent, by their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A rectangle of a checkpoint tensor, as an engine holds it; a vector is one column, all else is flattened to two.

    Attributes:
        name: The tensor's, as it was sent.
        rows: First row, and the one after the last.
        columns: First column, and the one after the last.
        dtype: Type that the engine loads it in, as torch names it.
        held: Type that it is kept in afterwards.
        packed: Whether it is kept in a form that can only be multiplied by. Sampled columns of it are compared, picked
            exactly by unit vectors; a zero's sign and numbers below 1e-38 do not survive the multiplication.
        scaled: Whether the engine has multiplied it by its adapter's scale.
    """

    name: str
    rows: tuple[int, int]
    columns: tuple[int, int]
    dtype: str
    held: str
    packed: bool = False
    scaled: bool = False


Checksums = list[tuple[Piece, int]]
"""What an engine shows; where several devices hold the same piece, it is there several times."""


def plane(tensor: Tensor) -> Tensor:
    """A tensor as rows and columns, ``(R, C)``: a vector is one column."""
    return tensor.unsqueeze(1) if tensor.dim() == 1 else tensor.flatten(1)


def whole_piece(name: str, tensor: Tensor) -> Piece:
    """A piece that is a whole tensor, kept as it was loaded."""
    rows, columns = plane(tensor).shape
    dtype = dtype_name(tensor.dtype)
    return Piece(name=name, rows=(0, rows), columns=(0, columns), dtype=dtype, held=dtype)


def dtype_name(dtype: torch.dtype) -> str:
    """As torch names it, without ``torch.``."""
    return str(dtype).removeprefix("torch.")


def sampled_columns(width: int, seed: int) -> list[int]:
    """Columns of a packed weight to look at: the first, the last, and others that change with the seed."""
    if width <= SAMPLED_COLUMNS:
        return list(range(width))
    inner = np.random.default_rng(seed).choice(width - 2, SAMPLED_COLUMNS - 2, replace=False) + 1
    return [0, *sorted(int(column) for column in inner), width - 1]


def as_multiplied(values: Tensor) -> Tensor:
    """What is left of numbers after a multiplication by 1 on a CPU's matrix units: no sign of 0, no tiny number."""
    return torch.where(values.abs() < torch.finfo(torch.float32).tiny, torch.zeros_like(values), values)


@torch.no_grad()
def checksum(values: Tensor, seed: int) -> Tensor:
    """A number that depends on every bit of a matrix ``(R, C)`` and on its place.

    Bits are taken as integers of 16 bits, multiplied by odd factors of their row and column, and added: one changed
    number always changes the sum, two that change together leave it unchanged with a chance of 2^-19, and many with
    less. The next seed has other factors. Sums over rows are matrix products in float64, every one an exact integer.

    Returns:
        An ``int64`` scalar on the same device: it has not been waited for.
    """
    bits = values.contiguous().view(torch.int16)
    rows, columns = bits.shape
    row_factors = _factors(rows, 2 * seed, values.device).bitwise_and((1 << 20) - 1).to(torch.float64)
    total = torch.zeros(columns, dtype=torch.int64, device=values.device)
    step = max(1, min(_CHUNK // max(1, columns), 1 << 15))  # 2^15 bits, 2^20 factors, 2^15 rows: below 2^53
    for start in range(0, rows, step):
        total += (row_factors[start : start + step] @ bits[start : start + step].to(torch.float64)).to(torch.int64)
    return (total * _factors(columns, 2 * seed + 1, values.device)).sum()


def _factors(count: int, seed: int, device: torch.device) -> Tensor:
    """Odd pseudo-random integers of 64 bits ``(count,)``, the same on every device."""
    number = torch.arange(1, count + 1, dtype=torch.int64, device=device) + ((seed & 0x7FFFFFFF) << 32)
    number = number * (0x9E3779B97F4A7C15 - (1 << 64))
    number = (number ^ (number >> 29)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    return (number ^ (number >> 32)) | 1


class WeightProof:
    """Checksums of weights that are sent, to be compared with those of an engine that has taken them.

    Args:
        shapes: Of all tensors that are sent.
        pieces: What the engine says that it will hold of them.
        seed: Decides which columns of packed weights are looked at.
        scale: What the engine multiplies an adapter's second matrices by.

    Raises:
        RunError: If some part of a tensor is in no piece: it could not be proved.
    """

    def __init__(self, shapes: Shapes, pieces: Iterable[Piece], seed: int, scale: float = 1.0) -> None:
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.seed = seed
        self._scale = scale
        self._pieces: dict[str, list[Piece]] = {name: [] for name in self.shapes}
        for piece in dict.fromkeys(pieces):
            self._pieces[piece.name].append(piece)
        self._expected: dict[Piece, Tensor] = {}
        self._check_that_all_is_held()

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Type that the engine loads each tensor in."""
        return {name: getattr(torch, pieces[0].dtype) for name, pieces in self._pieces.items()}

    def watch(self, name: str, weight: Tensor) -> None:
        """Take the checksums of a weight that is being sent, in the type that the engine loads it in."""
        for piece in self._pieces[name]:
            self._expected[piece] = checksum(self._as_held(weight, piece), self.seed)

    def differences(self, found: Checksums) -> list[str]:
        """Names of the tensors that an engine holds otherwise than they were sent, or not at all."""
        sums = dict(zip(self._expected, _numbers(list(self._expected.values())), strict=True))
        wrong = {piece.name for piece, number in found if sums.get(piece) != number}
        shown = {piece for piece, _ in found}
        every = [piece for pieces in self._pieces.values() for piece in pieces]
        return sorted(wrong | {piece.name for piece in every if piece not in shown or piece not in sums})

    def _as_held(self, weight: Tensor, piece: Piece) -> Tensor:
        """What a weight should have become where the engine keeps it."""
        part = plane(weight)[slice(*piece.rows), slice(*piece.columns)]
        if piece.packed:
            part = as_multiplied(part[:, sampled_columns(part.shape[1], self.seed)])
        if piece.scaled and self._scale != 1:
            part = part * self._scale
        return part.to(getattr(torch, piece.held))

    def _check_that_all_is_held(self) -> None:
        for name, shape in self.shapes.items():
            rows, columns = plane(torch.empty(shape, device="meta")).shape
            boxes = {(piece.rows, piece.columns) for piece in self._pieces[name]}
            area = sum((bottom - top) * (right - left) for (top, bottom), (left, right) in boxes)
            if area != rows * columns:
                raise RunError(
                    f"the engine must show every weight that it is sent, to be compared, but shows {area} of "
                    f"{rows * columns} numbers of {name}: its form of this model, such as a quantized one, is not known"
                )


def show(held: Iterable[tuple[Piece, Callable[[], Tensor]]], seed: int | None) -> Checksums:
    """The checksums of an engine's pieces, moved from its device at once.

    Args:
        held: Each piece, and what reads its values ``(R, C)`` as they are held.
        seed: As of ``checksum``; None asks for the pieces alone, with 0 for each.
    """
    pairs = list(held)
    if seed is None:
        return [(piece, 0) for piece, _ in pairs]
    sums = [checksum(read(), seed) for _, read in pairs]
    return list(zip((piece for piece, _ in pairs), _numbers(sums), strict=True))


def show_tensors(tensors: Mapping[str, Tensor], names: Iterable[str], seed: int | None) -> Checksums:
    """What an engine shows that keeps tensors as it was sent them."""
    held = [(whole_piece(name, tensors[name]), tensors[name]) for name in names if name in tensors]
    return show([(piece, partial(plane, tensor)) for piece, tensor in held], seed)


def to_json(checksums: Checksums) -> list[dict[str, Any]]:
    """For an answer over HTTP; a checksum is a string, since JSON's numbers may lose digits."""
    return [{"piece": asdict(piece), "sum": str(number)} for piece, number in checksums]


def from_json(answer: list[dict[str, Any]]) -> Checksums:
    """What ``to_json`` made."""
    lists = [dict(each["piece"]) for each in answer]
    pieces = [Piece(**{**each, "rows": tuple(each["rows"]), "columns": tuple(each["columns"])}) for each in lists]
    return [(piece, int(each["sum"])) for piece, each in zip(pieces, answer, strict=True)]


def _numbers(sums: Sequence[Tensor]) -> list[int]:
    """Scalars as numbers, with one transfer from the device they are on."""
    if not sums:
        return []
    numbers: list[int] = torch.stack([each.to(sums[0].device) for each in sums]).tolist()
    return numbers
