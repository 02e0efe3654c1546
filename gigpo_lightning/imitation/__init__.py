"""What a policy imitates: an expert's episodes, episodes that it has played itself, or chats in JSONL files."""

from gigpo_lightning.imitation.base import DemonstrationSource, Example
from gigpo_lightning.imitation.chats import ChatMessages
from gigpo_lightning.imitation.expert import ExpertDemonstrations
from gigpo_lightning.imitation.stored import BestEpisodes, EpisodeFilter, StoredEpisodes

__all__ = [
    "BestEpisodes",
    "ChatMessages",
    "DemonstrationSource",
    "EpisodeFilter",
    "Example",
    "ExpertDemonstrations",
    "StoredEpisodes",
]
