"""Environments and judges that worker processes import too."""

import json
import os
import time
from pathlib import Path

import gymnasium

from gigpo_lightning.chat_model import ChatServerError, ScriptedChat
from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.judge import Judge

RUBRIC = "Score how politely the agent asked."


class Counter(gymnasium.Env[str, str]):
    """Over after as many steps as the task says; every step is worth 1."""

    def reset(self, *, seed=None, options=None):
        self.left = options["task"].payload["steps"]
        return f"{self.left} left", {"instruction": "be polite", "anchor": self.left}

    def step(self, action):
        self.left -= 1
        info = {"success": False, "anchor": self.left, "metrics": {"left": float(self.left)}}
        return f"{self.left} left", 1.0, self.left == 0, False, info


def counting(*steps):
    return [Task(task_id=f"{number} steps", kind="count", payload={"steps": number}) for number in steps]


def polite(messages):
    """Gives as many points as the episode has the word please in an action."""
    told = [line for line in messages[1]["content"].splitlines() if line.startswith("Action")]
    return f'{{"reason": "counted", "score": {sum("please" in line for line in told)}}}'


def ill(messages):
    raise ChatServerError("http://judge", "answered with 503: out of order", 503)


def ill_about_long_ones(messages):
    return ill(messages) if '"5 left"' in messages[1]["content"] else polite(messages)


def three_if_cut(messages):
    return f'{{"score": {3 if "ended by its limit of steps" in messages[1]["content"] else 0}}}'


def slow(messages):
    time.sleep(0.3)
    return polite(messages)


def judged(folder, script=polite, environment=None, **options):
    """A judged counter; its record is in a folder."""
    options = {"rubric": RUBRIC, "tokens": 5} | options
    judge = ScriptedChat(script, tokens=options.pop("tokens"))
    return Judge(environment or Counter(), judge, record=str(folder / "judged.jsonl"), **options)


def play_by_hand(environment, *actions, steps=None):
    (task,) = counting(steps or len(actions))
    said = [environment.reset(options={"task": task})]
    return said + [environment.step(action) for action in actions]


def lines(folder):
    return [json.loads(line) for line in (folder / "judged.jsonl").read_text().splitlines()]


class Alone(Counter):
    """Breaks if two of its process step at the same time."""

    inside = 0

    def step(self, action):
        Alone.inside += 1
        time.sleep(0.01)
        assert Alone.inside == 1
        Alone.inside -= 1
        return super().step(action)


class TellsProcess(Counter):
    """Notes the processes that it lives in."""

    def __init__(self, folder):
        self.folder = folder

    def reset(self, *, seed=None, options=None):
        (Path(self.folder) / str(os.getpid())).touch()
        return super().reset(seed=seed, options=options)
