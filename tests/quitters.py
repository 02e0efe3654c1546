"""Classes of a user's own that call sys.exit, as scripts do."""

import sys

from gigpo_lightning.environments.base import TaskPanel
from gigpo_lightning.environments.gridworld import GridworldTasks


class QuittingTasks(GridworldTasks):
    """Ends the process where it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        if where == "init":
            sys.exit(0)

    def prepare(self) -> None:
        if self.where == "prepare":
            sys.exit()

    def panel(self, split: str) -> TaskPanel:
        if self.where == "panel":
            sys.exit("bye")
        return super().panel(split)
