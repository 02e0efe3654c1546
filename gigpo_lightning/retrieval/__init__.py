"""Finding texts by words: what shops and question answering search with."""

from gigpo_lightning.retrieval.bm25 import Bm25Index

__all__ = ["Bm25Index"]
