"""Servers of the ``openenv`` package itself: ``python package_server.py text|tools PORT``."""

import sys
from typing import ClassVar

import uvicorn
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import Action, Observation, State


class Say(Action):
    message: str


class Seen(Observation):
    text: str


class Place(State):
    place: int = 0


class Hall(Environment):
    """One text field, seeds, and a task API where the package has one."""

    SUPPORTS_CONCURRENT_SESSIONS = True
    splits: ClassVar = {"train": 6, "test": 2}

    def __init__(self):
        super().__init__()
        self.now = Place()

    def reset(self, seed=None, episode_id=None, split=None, index=0, **kwargs):
        self.now = Place(episode_id=episode_id)
        self.door = 2 + (seed or index) % 3
        return Seen(text="place 0")

    def step(self, action, timeout_s=None, **kwargs):
        if action.message == "break":
            raise RuntimeError("the floor gives way")
        self.now.step_count += 1
        self.now.place += {"on": 1, "back": -1}.get(action.message, 0)
        done = self.now.place == self.door
        return Seen(text=f"place {self.now.place} at time {self.now.step_count}", done=done, reward=float(done))

    @property
    def state(self):
        return self.now

    def list_splits(self):
        return list(self.splits)

    def num_tasks(self, split):
        return self.splits[split]

    def list_tasks(self, split):
        return [{"id": f"{split}-{index}"} for index in range(self.splits[split])]

    def get_task(self, split, index):
        return self.list_tasks(split)[index]


class Tools(MCPEnvironment):
    """The same hall, where an action is a call of a tool."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        from fastmcp import FastMCP

        served = FastMCP("hall")

        @served.tool
        def walk(steps: int) -> str:
            """Walk along the hall."""
            self.now.place += steps
            return f"place {self.now.place}"

        self.now = Place()
        super().__init__(served)

    def reset(self, seed=None, episode_id=None, **kwargs):
        self.now = Place(episode_id=episode_id)
        self.door = 2 + (seed or 0) % 3
        return CallToolObservation(tool_name="walk", result="place 0")

    def _step_impl(self, action, timeout_s=None, **kwargs):
        raise ValueError("an action must be the call of a tool")

    def _judged(self, seen):
        self.now.step_count += 1
        seen.done = self.now.place == self.door
        seen.reward = float(seen.done)
        return seen

    def step(self, action, timeout_s=None, **kwargs):
        return self._judged(super().step(action, timeout_s=timeout_s, **kwargs))

    async def step_async(self, action, timeout_s=None, **kwargs):
        return self._judged(await super().step_async(action, timeout_s=timeout_s, **kwargs))

    @property
    def state(self):
        return self.now


if __name__ == "__main__":
    kinds = {"text": (Hall, Say, Seen), "tools": (Tools, CallToolAction, CallToolObservation)}
    app = create_fastapi_app(*kinds[sys.argv[1]], max_concurrent_envs=64)
    uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
