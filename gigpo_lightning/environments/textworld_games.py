"""TextWorld's games as a Gymnasium environment: from files of ``tw-make``, or made from the seed.

The package is TextWorld (https://github.com/microsoft/TextWorld, MIT), part of the extra ``alfworld``.
"""

import atexit
import json
import os
import re
import shutil
import tempfile
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import gymnasium

from gigpo_lightning.environments.anchors import state_key
from gigpo_lightning.environments.extras import import_extra
from gigpo_lightning.errors import check_count

_TITLE = re.compile(r"^[\s|\\/_$<>x]+$\n?", re.MULTILINE)  # its letters are drawn with these
_STATUS = re.compile(r"\n>\s.*\Z", re.DOTALL)  # the room, the score and the number of moves, which is a clock
_EMPTY = re.compile(r"\n\s*\n")
_GAMES = ("*.z8", "*.ulx")
_MOST_KEPT = 4096


class TextWorldGames(gymnasium.Env[str, str]):
    """Plays a game of TextWorld; the seed says which.

    The facts of the world are the anchor, its objective is the instruction, and winning is success. The reward of a
    step is what it adds to the score. Give this class as ``env_id`` to ``GymnasiumEnvironment``.

    Args:
        folder: A folder of game files (``.z8``, with the ``.json`` that ``tw-make`` writes beside each): seed 0 is the
            first by name.
        challenge: Kind of game that is made from the seed: ``tw-simple``, ``tw-coin_collector``,
            ``tw-treasure_hunter`` or ``tw-cooking``. Making one takes about a second; each process keeps its own.
        settings: What ``challenge`` is made with, as the options of ``tw-make`` name it: ``{level: 5}``.

    Raises:
        ValueError: If not exactly one of ``folder`` and ``challenge`` is given, or it is not there.
        RunError: If TextWorld is not installed.
    """

    def __init__(self, folder: str = "", challenge: str = "", settings: dict[str, Any] | None = None) -> None:
        challenges = import_extra("textworld.challenges", "alfworld")
        if bool(folder) == bool(challenge):
            raise ValueError(f"folder or challenge must be given, one of them, got {folder!r} and {challenge!r}")
        if challenge and challenge not in challenges.CHALLENGES:
            raise ValueError(f"challenge must be one of {', '.join(challenges.CHALLENGES)}, got {challenge!r}")
        self._files = _files(folder) if folder else []
        self._challenge = challenge
        self._settings = dict(settings or {})
        self.observation_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 16)
        self.action_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 12)
        self._game: Any = None
        self._file = ""
        self._score = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin the seed's game.

        Raises:
            ValueError: If there is no seed, or no such game.
        """
        super().reset(seed=seed)
        if seed is None:
            raise ValueError("seed must say which game is played, got None")
        if self._files:
            check_count("seed", seed, 0, len(self._files) - 1, why="the number of a game file, from 0")
            file = self._files[seed]
        else:
            file = made_game(self._challenge, state_key(self._settings), seed)
        if file != self._file:
            self.close()
            self._game, self._file = _started(file), file
        observation, infos = self._game.reset()
        self._score = 0.0
        return _story(observation), _info(infos)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Send a command."""
        observation, score, done, infos = self._game.step(action)
        reward, self._score = score - self._score, score
        return _story(observation), float(reward), bool(done), False, _info(infos)

    def close(self) -> None:
        """End the game."""
        if self._game is not None:
            self._game.close()
            self._game, self._file = None, ""


def _files(folder: str) -> list[str]:
    found = sorted(str(path) for form in _GAMES for path in Path(folder).glob(form))
    if not found:
        raise ValueError(f"folder must hold game files ({', '.join(_GAMES)}), got {folder!r}")
    return found


def _started(file: str) -> Any:
    import textworld
    from textworld.gym.envs import TextworldGymEnv

    asked = ("facts", "admissible_commands", "won", "lost", "objective", "score", "max_score")
    infos = textworld.EnvInfos(**dict.fromkeys(asked, True))
    return TextworldGymEnv([file], request_infos=infos)


def _info(infos: dict[str, Any]) -> dict[str, Any]:
    """What is told of a game's infos."""
    said: dict[str, Any] = {name: infos[name] for name in ("objective", "won", "lost", "score", "max_score")}
    said["admissible_commands"] = infos["admissible_commands"]
    return said | {"anchor": "; ".join(sorted(map(str, infos["facts"])))}


def _story(observation: str) -> str:
    """What a game says, without the title, the status line and rows of empty lines."""
    return _EMPTY.sub("\n\n", _STATUS.sub("", _TITLE.sub("", observation))).strip()


@lru_cache(maxsize=_MOST_KEPT)
def made_game(challenge: str, settings: str, seed: int) -> str:
    """The file of the game that a seed makes, made at first use.

    Raises:
        ValueError: If the challenge refuses its settings.
    """
    from textworld import GameOptions, challenges
    from textworld.generator import compile_game

    make = challenges.CHALLENGES[challenge][1]
    options = GameOptions()
    options.seeds = seed
    options.path = os.path.join(tempfile.mkdtemp(dir=_folder()), f"{seed}.z8")
    try:
        game = make(json.loads(settings), options)
    except KeyError as error:
        raise ValueError(f"settings of {challenge} must have {error}, got {settings}") from error
    return str(compile_game(game, options))


@cache
def _folder() -> str:
    """A folder of this process for the games that it makes."""
    folder = tempfile.mkdtemp(prefix="gigpo-textworld-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
