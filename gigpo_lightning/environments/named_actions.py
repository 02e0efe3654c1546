"""Words for the numbered actions of a Gymnasium environment."""

from collections.abc import Sequence
from typing import Any

import gymnasium

from gigpo_lightning.errors import check_count


class NamedActions(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Takes a word for each action of a ``Discrete`` space; any other word changes nothing and is worth nothing.

    ``info["admissible_actions"]`` lists the words.

    Args:
        env: The environment.
        names: Word of action 0, of action 1 and so on. The last actions may be left out: they are never taken.

    Raises:
        ValueError: If the action space is no ``Discrete`` one, there are more names than actions, or one comes twice.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], names: list[str]) -> None:
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, gymnasium.spaces.Discrete):
            raise ValueError(f"env must have a Discrete action space to name its actions, got {space}")
        check_count("the number of names", len(names), 1, int(space.n), why=f"the actions are {space}")
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"names must differ from each other, got {repeated[0]!r} twice")
        self.action_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 12)
        self.names: Sequence[str] = tuple(names)
        self._numbers = {name: int(space.start) + number for number, name in enumerate(names)}
        self._last: tuple[Any, dict[str, Any]] = (None, {})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._last = self._named(*self.env.reset(seed=seed, options=options))
        return self._last

    def step(self, action: str) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the action of the word, if it is one."""
        number = self._numbers.get(action.strip())
        if number is None:
            return self._last[0], 0.0, False, False, dict(self._last[1])
        observation, reward, terminated, truncated, info = self.env.step(number)
        self._last = self._named(observation, info)
        return self._last[0], reward, terminated, truncated, self._last[1]

    def _named(self, observation: Any, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return observation, {**info, "admissible_actions": self.names}
