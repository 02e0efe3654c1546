"""Finding texts by words: what shops and question answering search with."""

from gigpo_lightning.retrieval.base import Passage, Retriever
from gigpo_lightning.retrieval.bm25 import Bm25Index
from gigpo_lightning.retrieval.bm25_retriever import Bm25Retriever
from gigpo_lightning.retrieval.dense import DenseRetriever, Encoder, SentenceEncoder
from gigpo_lightning.retrieval.http_retriever import HttpRetriever

__all__ = [
    "Bm25Index",
    "Bm25Retriever",
    "DenseRetriever",
    "Encoder",
    "HttpRetriever",
    "Passage",
    "Retriever",
    "SentenceEncoder",
]
