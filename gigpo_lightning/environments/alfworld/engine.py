"""One slot of textworld's PDDL engine, stock or fast."""

import importlib
import shutil
import subprocess
import sys
import tempfile
import weakref
from functools import cache
from pathlib import Path
from typing import Any


def import_engine() -> None:
    """Import the optional packages.

    Raises:
        ImportError: If they are not installed; the message names the extra.
    """
    try:
        for module in ("textworld", "fast_downward", "alfworld.agents.environment.alfred_tw_env"):
            importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"ALFWorld needs the packages of the extra 'alfworld' ({error}); make install brings them"
        ) from error


class EngineSlot:
    """Loads and plays one game after another on one copy of the native engine.

    Not thread-safe and not picklable, like the engine. An engine object holds its copy of the native library until the
    process ends, so slots are kept and reused.

    Args:
        fast: Keep parses and translations; off, everything is textworld's own.
    """

    def __init__(self, fast: bool) -> None:
        import_engine()
        _use_small_library()
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld import EnvInfos
        from textworld.envs.pddl.pddl import PddlEnv

        engine: Any = PddlEnv
        if fast:
            from gigpo_lightning.environments.alfworld.fast import FastPddlEnv

            engine = FastPddlEnv
        self._environment = AlfredDemangler(engine(EnvInfos(won=True, admissible_commands=True)), shuffle=False)

    def start(self, game: str | dict[str, Any]) -> Any:
        """Load a game's file, or its content, and reset it; textworld's state."""
        arguments = sys.argv
        try:
            self._environment.load(game)
            return self._environment.reset()
        finally:
            sys.argv = arguments  # the translator overwrites it

    def step(self, command: str) -> tuple[Any, bool]:
        """Take an action; textworld's state, and whether the game is won."""
        state, _, _ = self._environment.step(command)
        return state, bool(state["won"])


@cache
def _use_small_library() -> None:
    """Let slots copy a stripped native library, 1 MB instead of 34; without ``strip``, they copy the whole."""
    from fast_downward import interface

    strip = shutil.which("strip")
    if strip is None:
        return
    folder = tempfile.TemporaryDirectory(prefix="gigpo-downward-")
    small = Path(folder.name) / "libdownward.so"
    command = [strip, "--strip-unneeded", "-o", str(small), interface.DOWNWARD_LIB_PATH]
    if subprocess.run(command, check=False, capture_output=True).returncode == 0:
        interface.DOWNWARD_LIB_PATH = str(small)
        weakref.finalize(interface, folder.cleanup)
    else:
        folder.cleanup()
