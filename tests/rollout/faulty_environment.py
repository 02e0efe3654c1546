"""Environments that fail as they are told to; a worker process that imports them imports nothing else."""

import os
import signal
import sys
import time
from pathlib import Path

import gymnasium

from gigpo_lightning.errors import RunError


class FaultyEnvironment(gymnasium.Env[str, str]):
    """Three steps long. A task may name a fault, where it strikes, and how often; strikes are counted in a file."""

    def reset(self, *, seed=None, options=None):
        self.task = options["task"].payload
        self.taken = 0
        return self.strike("reset", "left 3"), {}

    def step(self, action):
        self.taken += 1
        over = self.taken == 3
        observation = self.strike("step", f"left {3 - self.taken}")
        reward = float("nan") if observation == "nan" else 1.0
        return observation, reward, over, False, {"success": over}

    def strike(self, where, observation):
        file = Path(self.task["file"])
        struck = len(file.read_text()) if file.exists() else 0
        if where != self.task["where"] or (where == "step" and self.taken != 2) or struck >= self.task["times"]:
            return observation
        with file.open("a") as counter:
            counter.write("x")
        if self.task["fault"] == "raises":
            raise RuntimeError("the bridge fell down")
        if self.task["fault"] == "cannot":
            raise RunError("the bridge is closed for good")
        if self.task["fault"] == "hangs":
            time.sleep(60)
        if self.task["fault"] == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"no string": None, "nan": "nan", "half a character": "a \ud83d b"}[self.task["fault"]]


class DiesAtOnce(FaultyEnvironment):
    """Cannot even be unpickled."""

    def __reduce__(self):
        return (os._exit, (3,))


class ColdEnvironment(FaultyEnvironment):
    """Must be warmed up, which its own first step could not wait for."""

    warm = ""

    def __init__(self, problem=""):
        self.problem = problem

    def warm_up(self):
        if self.problem:
            raise ValueError(self.problem)
        time.sleep(1.5)
        self.warm = "warm"

    def step(self, action):
        return f"{super().step(action)[0]} {self.warm}", 1.0, True, False, {}


class Sluggish(FaultyEnvironment):
    """Takes its time, some episodes more than others."""

    def step(self, action):
        time.sleep(0.03 * (id(self) % 3))
        return super().step(action)


class CounterEnvironment(gymnasium.Env[str, str]):
    """Says how many steps it has taken, and in which process it lives."""

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        self.name = options["task"].task_id
        return f"{self.name} 0", {"instruction": "count", "admissible_actions": ["on"], "anchor": (self.name, 0)}

    def step(self, action):
        if action == "raise":
            raise KeyError("lost")
        if action == "die":
            os._exit(7)
        if action == "modules":
            return "modules", 0.0, False, False, {"anchor": tuple(sys.modules)}
        self.steps += 1
        return f"{self.name} {self.steps}", 0.5, False, action == "stop", {"where": os.getpid()}
