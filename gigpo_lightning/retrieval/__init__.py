"""Finding texts by words: what shops and question answering search with."""

from gigpo_lightning.retrieval.base import Passage, Retriever
from gigpo_lightning.retrieval.dense import DenseRetriever, Encoder, SentenceEncoder
from gigpo_lightning.retrieval.http_retriever import HttpRetriever, RetrievalStats

__all__ = [
    "DenseRetriever",
    "Encoder",
    "HttpRetriever",
    "Passage",
    "RetrievalStats",
    "Retriever",
    "SentenceEncoder",
]
