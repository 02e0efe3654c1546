"""An environment of two tools, whose functions a worker process makes schemas of."""

import gymnasium

from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.tools import read_call


class SafeEnvironment(gymnasium.Env[str, str]):
    """A safe that opens with the right number, which looking tells."""

    def reset(self, *, seed=None, options=None):
        self.number = options["task"].payload["number"]
        self.heard = []
        return "a safe", {"instruction": "open the safe", "tools": [self.look, self.enter], "anchor": "closed"}

    def look(self) -> str:
        """Look around."""
        return f"a note says {self.number}"

    def enter(self, number: int) -> str:
        """Enter a number into the safe.

        Args:
            number: The number.
        """
        return "open" if number == self.number else "closed"

    def step(self, action):
        self.heard.append(action)
        call = read_call(action)
        said = "nothing" if call is None else {"look": self.look, "enter": self.enter}[call.name](**call.arguments)
        metrics = {"heard": len(self.heard)}
        info = {"success": said == "open", "anchor": "open" if said == "open" else "closed", "metrics": metrics}
        return said, float(said == "open"), said == "open", False, info


TASKS = [Task(task_id=f"safe {number}", kind="safe", payload={"number": number}) for number in (3, 4)]
