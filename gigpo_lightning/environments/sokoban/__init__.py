"""Sokoban in text, without dependencies: the environment, its levels by seed, fixed panels, and an expert."""

from gigpo_lightning.environments.sokoban.environment import SokobanEnvironment, sokoban_symbols, sokoban_words
from gigpo_lightning.environments.sokoban.level import Level
from gigpo_lightning.environments.sokoban.offline.generator import generate_level
from gigpo_lightning.environments.sokoban.offline.solver import SokobanExpert, solve
from gigpo_lightning.environments.sokoban.panel import SokobanTasks, sokoban_panel

__all__ = [
    "Level",
    "SokobanEnvironment",
    "SokobanExpert",
    "SokobanTasks",
    "generate_level",
    "sokoban_panel",
    "sokoban_symbols",
    "sokoban_words",
    "solve",
]
