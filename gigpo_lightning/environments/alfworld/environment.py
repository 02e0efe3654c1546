"""ALFWorld's text games as a Gymnasium environment."""

import hashlib
import math
import re
from typing import Any, Literal

import gymnasium

from gigpo_lightning.environments.alfworld.engine import EngineSlot, close_slot, open_slot
from gigpo_lightning.environments.base import Task
from gigpo_lightning.errors import check_range

_INSTRUCTION = re.compile(r"Your task is to: (.*?)\.?\s*$", re.DOTALL)
# The engine's bookkeeping: what has been looked at, negated facts that pile up, and the planner's own predicates.
_NOT_STATE = ("checked", "not_", "new-axiom")


class AlfworldEnvironment(gymnasium.Env[str, str]):
    """Plays game files on textworld's PDDL engine.

    Observations are the engine's feedback, unchanged but for outer white space. The reward is ``success_reward`` on the
    step that wins, else 0 (App. E of arXiv:2505.10978); there is no step limit here, the collector has one.
    ``info["admissible_actions"]`` is the engine's own list, ``help`` included. Can be pickled and copied before the
    first ``reset``, not after; not thread-safe.

    Args:
        fast: Keep parses and translations, 80 times faster and equal to the byte; off, textworld's own engine.
        anchor: ``"observation"`` groups steps by the feedback text, as the paper does; ``"state"`` by a hash of the
            engine's facts, which never takes two states for one.
        success_reward: Reward of winning.

    Raises:
        ValueError: If ``anchor`` is neither.
    """

    def __init__(
        self, fast: bool = True, anchor: Literal["observation", "state"] = "observation", success_reward: float = 10.0
    ) -> None:
        if anchor not in ("observation", "state"):
            raise ValueError(f"anchor must be 'observation' or 'state', got {anchor!r}")
        check_range("success_reward", success_reward, -math.inf)
        self.fast = fast
        self.anchor = anchor
        self.success_reward = success_reward
        self.observation_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 16)
        self.action_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 12)
        self._slot: EngineSlot | None = None
        self._task_id = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start the game of ``options["task"]``, always in the same state.

        Raises:
            ValueError: If there is no task, or its game file cannot be played; the message names the file.
        """
        super().reset(seed=seed)
        task = (options or {}).get("task")
        if not isinstance(task, Task) or "game_file" not in task.payload:
            raise ValueError(f"options must have a 'task' whose payload names a 'game_file', got {options!r}")
        self._task_id = task.task_id
        if self._slot is None:
            self._slot = open_slot(self.fast)
        state = self._slot.start(str(task.payload["game_file"]))
        observation, info = self._observe(state, won=False)
        found = _INSTRUCTION.search(observation)
        info["instruction"] = found[1] if found else observation
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Send a command to the engine; one that it does not know changes nothing."""
        assert self._slot is not None, "reset comes first"
        state, won = self._slot.step(action)
        observation, info = self._observe(state, won=won)
        return observation, self.success_reward * won, won, False, info

    def close(self) -> None:
        """Give the engine's slot back; the next ``reset`` opens one again."""
        if self._slot is not None:
            close_slot(self._slot)
            self._slot = None

    def _observe(self, state: Any, won: bool) -> tuple[str, dict[str, Any]]:
        observation = state.feedback.strip()
        info = {
            "anchor": observation if self.anchor == "observation" else self._state_key(state),
            "admissible_actions": tuple(state["admissible_commands"]),
            "success": won,
        }
        return observation, info

    def _state_key(self, state: Any) -> str:
        """Digest of the task's id and of what is true in its game, whatever way led there."""
        facts = sorted(name for fact in state["_facts"] if not (name := str(fact)).startswith(_NOT_STATE))
        return hashlib.sha256("\n".join((self._task_id, *facts)).encode()).hexdigest()
