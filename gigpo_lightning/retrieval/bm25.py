"""BM25 with the terms, the arithmetic and the order of Anserini, which is Lucene."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gigpo_lightning.errors import check_range
from gigpo_lightning.retrieval.analyzer import lucene_tokens
from gigpo_lightning.retrieval.postings import build_postings

_DECIMALS = 4
_SAMPLE = 1 << 12
_SINGLE_STEP = 2.0**-22  # single precision moves a score by less
_LEAST = 2.0**-41  # between 0 and the least impact


class Bm25Index:
    """Finds the texts that share the query's words, rare words and short texts first.

    Nothing changes after building, so threads may share it; pickling copies it whole. Texts without a term are never
    found and do not count. A search adds up all postings of the query's terms: up to some hundred thousand texts at
    least, NumPy is faster that way than with pruning.

    Differs from Anserini, which lowers each score of a tie by a millionth: here equal scores stay equal.

    Args:
        texts: What to search, read once and not kept; results name them by their row, from 0.
        ids: One per text: texts of equal score come in the order of their ids, as strings; default: of their rows.
        k1: How much further occurrences of a term count; 0: nothing.
        b: How much a text's length counts against it, from 0 to 1.

    Raises:
        ValueError: If there is no text, the number of ids is another, or ``k1`` or ``b`` is out of its range.

    Example:
        >>> index = Bm25Index(["red shoes", "blue shoes", "a blue hat"])
        >>> index.search("Shoes, blue!", k=2)
        [(1, 0.4947), (0, 0.2474)]
    """

    def __init__(
        self, texts: Iterable[str], ids: Sequence[str] | None = None, *, k1: float = 0.9, b: float = 0.4
    ) -> None:
        check_range("k1", k1)
        check_range("b", b, 0.0, 1.0)
        self._postings = build_postings(texts, k1=k1, b=b)
        if not len(self):
            raise ValueError("texts must hold at least one text, got none")
        if ids is not None and len(ids) != len(self):
            raise ValueError(f"ids must be one per text, got {len(ids)} for {len(self)} texts")
        order = range(len(self)) if ids is None else sorted(range(len(self)), key=ids.__getitem__)
        self._places = np.argsort(order).astype(np.int32)

    def __len__(self) -> int:
        return self._postings.num_texts

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """Find the ``k`` best texts, fewer if fewer share a word with the query.

        A word that the query repeats counts as often.

        Returns:
            Rows and scores, best first; scores are rounded to four digits after they have decided the order.

        Raises:
            ValueError: If ``k`` is not positive.
        """
        if k < 1:
            raise ValueError(f"k must be positive, got {k}")
        terms = self._look_up(query)
        if not terms:
            return []
        rows = self._postings.rows
        scores = self._sum_up(terms)
        # The k-th best of a sample is a lower bound of the k-th best of all, and leaves few to sort.
        rarest = min((rows[span] for span, _ in terms if span.stop - span.start >= k), key=len, default=rows[:0])
        found = np.flatnonzero(scores >= _floor(scores[rarest[:_SAMPLE]], k))
        found = found[scores[found] >= _floor(scores[found], k)]
        order = np.lexsort((self._places[found], -scores[found].astype(np.float32)))
        best = found[order[:k]]
        return list(zip(best.tolist(), scores[best].round(_DECIMALS).tolist(), strict=True))

    def search_many(self, queries: Iterable[str], k: int) -> list[list[tuple[int, float]]]:
        """Search for each query, and once for equal ones, which groups of episodes often have.

        Raises:
            ValueError: If ``k`` is not positive.
        """
        asked = list(queries)
        answers = {query: self.search(query, k) for query in dict.fromkeys(asked)}
        return [list(answers[query]) for query in asked]

    def _look_up(self, query: str) -> list[tuple[slice, np.float32]]:
        """The postings of the query's terms, and how often it names each."""
        vocabulary, starts = self._postings.vocabulary, self._postings.starts
        counts = Counter(lucene_tokens(query))
        known = [(vocabulary[term], np.float32(count)) for term, count in counts.items() if term in vocabulary]
        return [(slice(starts[number], starts[number + 1]), count) for number, count in known]

    def _sum_up(self, terms: list[tuple[slice, np.float32]]) -> NDArray[np.float64]:
        """The score of every text; no sum is rounded, so the order of the terms does not matter."""
        rows, impacts = self._postings.rows, self._postings.impacts
        hits = np.concatenate([rows[span] for span, _ in terms], dtype=np.intp)
        worth = np.concatenate([impacts[span] * count for span, count in terms], dtype=np.float64)
        return np.asarray(np.bincount(hits, worth, minlength=len(self)), np.float64)


def _floor(scores: NDArray[np.float64], k: int) -> float:
    """Least score of the ``k`` best, less what single precision may move it; always above 0."""
    if len(scores) < k:
        return _LEAST
    return float(np.partition(scores, -k)[-k]) * (1 - _SINGLE_STEP)
