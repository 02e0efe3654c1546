"""TextArena's games of one player, by id (arXiv 2504.11442, MIT): the extra ``textarena``.

Some games need more than the package: NLTK's word lists, which they download, or an API key for a judge.
"""

import contextlib
import hashlib
import inspect
import io
import random
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from gigpo_lightning.environments.extras import import_extra
from gigpo_lightning.environments.seeded_tasks import seed_of
from gigpo_lightning.errors import RuleError, RunError, check_range
from gigpo_lightning.suggestions import did_you_mean

_EXTRA = "textarena"
_COPIES = ("-train", "-raw")  # the same game, shown in another way
_TURNS = ("turn", "turns", "num_turns", "turn_count", "moves_made")
_TABLE = 2_000
"""Entries of a container from which on it is taken for a table of the game, such as its words, and not read."""

_Generators = tuple[Any, dict[str, Any] | tuple[Any, ...]]


class TextArenaEnvironment(gymnasium.Env[str, str]):
    """Plays a game of TextArena for one player.

    The rules are the instruction. An observation is what the game has said since the last move, such as the new board;
    the first one is the board, or the rules if there is none. It is the same for a game's ids with and without
    ``-train``; with ``-raw`` a move must bring its own square brackets. The reward comes at the end and is the game's:
    1 for a win, less for a part of it, and -1 after too many invalid moves in most games.

    The anchor is a digest of the game's whole state: of its board and whatever else the game remembers, without the
    numbers of turns that ``state_ignored`` names. Tables of more than 2,000 entries are taken for fixed.

    Games draw from the process's own random generators: they are seeded by the task, and after each call put back to
    where they were.

    A task's payload has a ``seed``, as ``SeededTasks`` lists; with its ``ids``, the id is the game's.

    Args:
        env_id: The game of tasks that name none, such as ``FrozenLake-v0``.
        settings: The game's own settings, in place of those of its id.
        success_reward: Reward from which on an episode has succeeded.
        state_ignored: Names in the game's state that do not make two states different.

    Raises:
        ValueError: If ``success_reward`` is not finite.
    """

    def __init__(
        self,
        env_id: str | None = None,
        settings: dict[str, Any] | None = None,
        success_reward: float = 1.0,
        state_ignored: Sequence[str] = _TURNS,
    ) -> None:
        check_range("success_reward", success_reward, -float("inf"))
        self.env_id = env_id
        self.settings = settings or {}
        self.success_reward = success_reward
        self.state_ignored = tuple(state_ignored)
        self.observation_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 20)
        self.action_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 16)
        self._name = ""
        self._wrapped: Any = None
        self._game: Any = None
        self._generators: _Generators | None = None

    def warm_up(self) -> None:
        """Import the package, which takes seconds.

        Raises:
            RunError: If it is not installed.
        """
        import_extra("textarena", _EXTRA)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin the game of ``options["task"]``.

        Raises:
            ValueError: If there is no task with a seed, or no such game of one player.
            RunError: If the game cannot begin, such as for data that it would download.
        """
        super().reset(seed=seed)
        task, number = seed_of(options)
        self._name = str(task.payload.get("id") or self.env_id or "")
        _check_id(self._name)
        with self._own_generators(number):
            self._begin(number)
            told = self._told()
        rules = [text for kind, text in told if kind == "PROMPT"]
        shown = [text for kind, text in told if kind != "PROMPT"]
        instruction = "\n".join(rules)
        return "\n".join(shown) or instruction, {**self._info(False), "instruction": instruction}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Make a move.

        Raises:
            RuleError: If the game ends without a reward, or with one that is no number.
        """
        if self._game is None:
            raise RunError("reset must be called before the first step")
        with self._own_generators(None):
            over, _ = self._wrapped.step(action)
            said = [text for _, text in self._told()]
        if not over:
            return "\n".join(said), 0.0, False, False, self._info(False)
        rewards, facts = self._game.close()
        reward = self._reward(rewards)
        reason = facts.get(0, {}).get("reason")
        info = self._info(reward >= self.success_reward)
        info["metrics"] = {"ended_by_invalid_move": float(bool(facts.get(0, {}).get("invalid_move")))}
        return "\n".join([*said, *([str(reason)] if reason else [])]), reward, True, False, info

    def _begin(self, seed: int) -> None:
        textarena = import_extra("textarena", _EXTRA)
        try:
            self._wrapped = textarena.make(self._name, **self.settings)
            game = self._wrapped
            while isinstance(game, textarena.Wrapper):
                game = game.env
            self._game = game
            self._wrapped.reset(num_players=1, seed=seed)
        except Exception as error:  # a game decides itself what it raises
            said = " ".join(str(error).split())
            raise RunError(
                f"TextArena's game {self._name!r} cannot begin: {type(error).__name__}: {said[:300]}{_cure(error)}"
            ) from error

    def _told(self) -> list[tuple[str, str]]:
        """The kinds and texts of the game's messages since the last call, without the player's own."""
        _, messages = self._game.get_observation()
        return [
            (getattr(kind[0], "name", "") if kind else "", str(text))
            for sender, text, *kind in messages
            if sender == -1 and str(text).strip()
        ]

    def _reward(self, rewards: Mapping[int, Any] | None) -> float:
        reward = (rewards or {}).get(0)
        if isinstance(reward, bool) or not isinstance(reward, int | float | np.number):
            raise RuleError(
                f"TextArena's game {self._name!r} ended with the reward {reward!r}, which is no number: a defect of "
                "the game, as some of version 0.7.4 have it for invalid moves; choose another one"
            )
        return float(reward)

    def _info(self, success: bool) -> dict[str, Any]:
        state = self._game.state
        ignored = frozenset((*self.state_ignored, "state"))
        parts = (
            _canonical(vars(self._game), ignored),
            _canonical(state.game_state, ignored),
            getattr(state, "error_count", 0),
            state.done,
        )
        return {"anchor": hashlib.sha256(repr(parts).encode()).hexdigest()[:32], "success": success}

    @contextlib.contextmanager
    def _own_generators(self, seed: int | None) -> Iterator[None]:
        """Let the game draw from generators of its own, and print nothing; a seed makes new ones."""
        before = random.getstate(), np.random.get_state()
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
        elif self._generators is not None:
            random.setstate(self._generators[0])
            np.random.set_state(self._generators[1])
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        finally:
            self._generators = random.getstate(), np.random.get_state()
            random.setstate(before[0])
            np.random.set_state(before[1])


def single_player_ids() -> list[str]:
    """The ids of games of one player, without those that only show a game in another way.

    Raises:
        RunError: If TextArena is not installed.
    """
    registry = _registry()
    return [name for name in registry if not name.endswith(_COPIES) and _is_for_one(registry[name].entry_point)]


def _registry() -> dict[str, Any]:
    import_extra("textarena", _EXTRA)
    found: dict[str, Any] = import_extra("textarena.envs.registration", _EXTRA).ENV_REGISTRY
    return found


@cache
def _is_for_one(entry_point: str) -> bool:
    """Whether a game's source makes the state of one player: the registry does not say for how many a game is."""
    folder = Path(import_extra("textarena", _EXTRA).__path__[0])
    file = folder.parent.joinpath(*entry_point.partition(":")[0].split(".")).with_suffix(".py")
    return file.is_file() and "SinglePlayerState" in file.read_text()  # some cannot be imported by every Python


def _check_id(name: str) -> None:
    registry = _registry()
    if not name:
        raise ValueError("env_id must be given to the environment or by the task's id")
    if name not in registry:
        raise ValueError(
            f"env_id must be one of TextArena's {len(registry)}, got {name!r}{did_you_mean(name, registry)}"
        )
    if not _is_for_one(registry[name].entry_point):
        raise ValueError(f"env_id must be a game of one player, got {name!r}")


def _cure(error: Exception) -> str:
    """What to do about an error that is known."""
    if isinstance(error, LookupError) and "NLTK" in str(error):
        return ". On a machine with a network: python -m nltk.downloader words averaged_perceptron_tagger_eng"
    if "API key" in str(error):
        return " It asks a hosted model."
    return ""


def _canonical(value: Any, ignored: frozenset[str], above: tuple[int, ...] = ()) -> Any:
    """A value as one whose ``repr`` says all of it, in one order, and nothing of where it lies in memory."""
    if value is None or isinstance(value, bool | int | float | str | bytes | Enum):
        return value
    if id(value) in above:
        return "..."
    if isinstance(value, Mapping | list | tuple | set | frozenset) and len(value) > _TABLE:
        return (type(value).__name__, len(value))
    above = (*above, id(value))
    if isinstance(value, Mapping):
        pairs = [
            (repr(_canonical(key, ignored, above)), _canonical(content, ignored, above))
            for key, content in value.items()
            if not (isinstance(key, str) and key in ignored)
        ]
        return sorted(pairs, key=lambda pair: pair[0])
    if isinstance(value, list | tuple):
        return [_canonical(each, ignored, above) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(_canonical(each, ignored, above)) for each in value)
    if isinstance(value, np.ndarray | np.generic):
        return (str(value.dtype), value.shape, value.tolist())
    if inspect.isroutine(value) or inspect.isclass(value) or not hasattr(value, "__dict__"):
        return type(value).__name__
    return (type(value).__name__, _canonical(vars(value), ignored, above))
