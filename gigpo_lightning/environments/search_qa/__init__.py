"""Search-augmented question answering: the environment, its panels, and an invented world to try it on."""

from gigpo_lightning.environments.search_qa.environment import SearchQAEnvironment
from gigpo_lightning.environments.search_qa.offline.expert import ReadingExpert
from gigpo_lightning.environments.search_qa.offline.generator import World, generate_world
from gigpo_lightning.environments.search_qa.offline.words import search_qa_words
from gigpo_lightning.environments.search_qa.offline.world_retriever import WorldRetriever
from gigpo_lightning.environments.search_qa.panel import SearchQATasks, search_qa_panel
from gigpo_lightning.environments.search_qa.scoring import exact_match, normalize_answer
from gigpo_lightning.retrieval import Bm25Retriever, Passage, Retriever

__all__ = [
    "Bm25Retriever",
    "Passage",
    "ReadingExpert",
    "Retriever",
    "SearchQAEnvironment",
    "SearchQATasks",
    "World",
    "WorldRetriever",
    "exact_match",
    "generate_world",
    "normalize_answer",
    "search_qa_panel",
    "search_qa_words",
]
