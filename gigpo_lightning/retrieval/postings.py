"""The inverted index of BM25: for each term the texts that hold it, and what it adds to their scores.

Texts are read once and forgotten. The arithmetic is Lucene's: single precision, and lengths that fit into a byte.

Shape letters: N = texts, V = terms, P = postings (pairs of a term and a text that holds it).
"""

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from gigpo_lightning.retrieval.analyzer import lucene_term, lucene_words

_TEXTS_AT_ONCE = 1 << 13
_WORDS_KEPT = 1 << 20
_STOP = -1
_FINEST = np.float32(2**40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Postings:
    """Which texts hold which term, and what that is worth.

    Impacts are multiples of 2 ** -40: their sums in double precision are exact, so no order of summing changes a score.

    Attributes:
        vocabulary: The number of each term.
        starts: Where each term's postings begin, and the last ends, ``(V + 1,)``.
        rows: The texts of each term, ascending, ``(P,)``.
        impacts: What the term adds to the text's score, ``(P,)``.
        num_texts: N.
    """

    vocabulary: dict[str, int]
    starts: NDArray[np.int64]
    rows: NDArray[np.int32]
    impacts: NDArray[np.float32]
    num_texts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Counted words of some thousand texts, sorted by term, then by row; rows count from the block's first text."""

    lengths: NDArray[np.int64]
    terms: NDArray[np.int32]
    num_rows: NDArray[np.int64]  # of each of these terms
    rows: NDArray[np.uint16]
    times: NDArray[np.unsignedinteger]  # how often the term is in the row


def build_postings(texts: Iterable[str], *, k1: float, b: float) -> Postings:
    """Index texts in one pass; none is kept.

    Args:
        texts: What to search, possibly a stream.
        k1: How soon further occurrences of a term stop to matter: 0 is at once.
        b: How much a text's length counts against it, from 0 to 1.
    """
    vocabulary: dict[str, int] = {}
    blocks = deque(_count_words(texts, vocabulary))
    lengths = np.concatenate([block.lengths for block in blocks]) if blocks else np.zeros(0, np.int64)
    num_rows = np.zeros(len(vocabulary), np.int64)
    for block in blocks:
        num_rows[block.terms] += block.num_rows
    starts = np.concatenate([[0], np.cumsum(num_rows)])
    weights = _rarity(num_rows, int(np.count_nonzero(lengths)))
    scales = _inverse_norms(lengths, k1, b)
    rows = np.empty(starts[-1], np.int32)
    impacts = np.empty(starts[-1], np.float32)
    written = starts[:-1].copy()
    first_row = 0
    while blocks:  # each block goes as soon as it is written
        block = blocks.popleft()
        places = _runs(written[block.terms], block.num_rows)
        rows[places] = block.rows.astype(np.int32) + first_row
        weight = np.repeat(weights[block.terms], block.num_rows)
        impact = weight - weight / (1 + block.times.astype(np.float32) * scales[rows[places]])
        impacts[places] = np.rint(impact * _FINEST) / _FINEST
        written[block.terms] += block.num_rows
        first_row += len(block.lengths)
    return Postings(vocabulary=vocabulary, starts=starts, rows=rows, impacts=impacts, num_texts=len(lengths))


def stored_lengths(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """What Lucene's byte keeps of each length: up to 40 all of it, else the four leading bits of what is over 24.

    Example:
        >>> stored_lengths(np.array([40, 57, 100, 500]))
        array([ 40,  56,  96, 472])
    """
    above = np.maximum(lengths - 24, 0)
    bits = np.frexp(above.astype(np.float64))[1]
    lost = np.maximum(bits - 4, 0)
    kept: NDArray[np.int64] = np.minimum(lengths, 24) + (above >> lost << lost)
    return kept


class _TermNumbers(dict[str, int]):
    """The term's number of each word seen; new terms get the next number, stop words have none."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        super().__init__()
        self._vocabulary = vocabulary

    def __missing__(self, word: str) -> int:
        if len(self) >= _WORDS_KEPT:
            self.clear()
        term = lucene_term(word)
        number = self._vocabulary.setdefault(term, len(self._vocabulary)) if term else _STOP
        self[word] = number
        return number


def _count_words(texts: Iterable[str], vocabulary: dict[str, int]) -> Iterator[_Block]:
    """Read the texts block by block, filling the vocabulary."""
    number_of = _TermNumbers(vocabulary).__getitem__
    stream = iter(texts)
    while True:
        numbers = array("i")
        ends = [0]
        for text in islice(stream, _TEXTS_AT_ONCE):
            numbers.extend(map(number_of, lucene_words(text)))
            ends.append(len(numbers))
        if len(ends) == 1:
            return
        yield _make_block(np.frombuffer(numbers, np.int32), np.diff(ends))


def _make_block(numbers: NDArray[np.int32], num_words: NDArray[np.int64]) -> _Block:
    """Count the words of texts that follow each other; ``num_words`` says where they part."""
    rows = np.repeat(np.arange(len(num_words)), num_words)
    kept = numbers != _STOP
    lengths = np.bincount(rows[kept], minlength=len(num_words))
    pairs, times = np.unique(numbers[kept].astype(np.int64) * _TEXTS_AT_ONCE + rows[kept], return_counts=True)
    terms, num_rows = np.unique(pairs // _TEXTS_AT_ONCE, return_counts=True)
    return _Block(
        lengths=lengths,
        terms=terms.astype(np.int32),
        num_rows=num_rows,
        rows=(pairs % _TEXTS_AT_ONCE).astype(np.uint16),
        times=times.astype(np.min_scalar_type(times.max(initial=0))),
    )


def _rarity(num_rows: NDArray[np.int64], num_texts: int) -> NDArray[np.float32]:
    """Each term's idf: the rarer, the weightier; positive even for a term of every text."""
    rarity: NDArray[np.float64] = np.log(1 + (num_texts - num_rows + 0.5) / (num_rows + 0.5))
    return rarity.astype(np.float32)


def _inverse_norms(lengths: NDArray[np.int64], k1: float, b: float) -> NDArray[np.float32]:
    """What each text's counts are multiplied by: less, the longer it is. Texts without a term do not enter the mean."""
    if not lengths.any():
        return np.ones(len(lengths), np.float32)
    mean, single_k1, single_b = np.float32(lengths.sum() / np.count_nonzero(lengths)), np.float32(k1), np.float32(b)
    norms = single_k1 * ((1 - single_b) + single_b * stored_lengths(lengths).astype(np.float32) / mean)
    with np.errstate(divide="ignore"):  # without k1, presence is all that counts
        inverse: NDArray[np.float32] = np.float32(1) / norms
    return inverse


def _runs(firsts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The integers ``first, first + 1, ...`` of each run, one run after the other."""
    skipped = firsts - (np.cumsum(counts) - counts)
    return np.repeat(skipped, counts) + np.arange(counts.sum())
