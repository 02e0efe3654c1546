"""ALFWorld in text: the environment, its panels, scenes made offline, and an expert that searches.

The engine and the game files' grammar come from the optional packages ``textworld`` and ``alfworld`` (extra
``alfworld``); their native parts are under the GPL and are only ever imported, never shipped.
"""

from gigpo_lightning.environments.alfworld.environment import AlfworldEnvironment
from gigpo_lightning.environments.alfworld.offline.expert import SearchingExpert
from gigpo_lightning.environments.alfworld.offline.scenes import Scenes, generate_scenes
from gigpo_lightning.environments.alfworld.offline.words import alfworld_words
from gigpo_lightning.environments.alfworld.panel import AlfworldTasks, alfworld_panel

__all__ = [
    "AlfworldEnvironment",
    "AlfworldTasks",
    "Scenes",
    "SearchingExpert",
    "alfworld_panel",
    "alfworld_words",
    "generate_scenes",
]
