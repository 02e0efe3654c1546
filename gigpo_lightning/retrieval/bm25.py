"""BM25 with the terms, the arithmetic and the order of Anserini, which is Lucene."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gigpo_lightning.retrieval.analyzer import lucene_tokens
from gigpo_lightning.retrieval.postings import build_postings


class Bm25Index:
    def __init__(self, texts, ids=None, *, k1=0.9, b=0.4):
        self._postings = build_postings(texts, k1=k1, b=b)
        self._ranks = np.argsort(np.argsort(np.array(ids))) if ids is not None else np.arange(len(self))

    def __len__(self): return self._postings.num_texts

    def search_full(self, query, k):
        p = self._postings
        counts = Counter(lucene_tokens(query))
        spans = []
        for term, count in counts.items():
            number = p.vocabulary.get(term)
            if number is not None:
                spans += [slice(p.starts[number], p.starts[number + 1])] * count
        if not spans: return []
        scores = np.bincount(np.concatenate([p.rows[s] for s in spans]), np.concatenate([p.impacts[s] for s in spans]), len(self))
        floor = np.partition(scores, -k)[-k] if k < len(scores) else 0.0
        found = np.flatnonzero(scores >= floor * (1 - 2.0**-20)) if floor > 0 else np.flatnonzero(scores)
        single = scores[found].astype(np.float32)
        order = np.lexsort((self._ranks[found], -single))[:k]
        return list(zip(found[order].tolist(), np.round(scores[found[order]], 4).tolist()))
