"""One slot of textworld's PDDL engine, stock or fast."""

import importlib
import struct
import sys
import tempfile
import weakref
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from gigpo_lightning.environments.alfworld.expressions import value_of

_ELF_64_LITTLE = b"\x7fELF\x02\x01"


def import_engine() -> None:
    """Import the optional packages.

    Raises:
        ImportError: If they are not installed; the message names the extra.
    """
    arguments = sys.argv
    sys.argv = ["translate.py", "domain", "task"]  # the translator reads the command line when it is imported
    try:
        for module in ("textworld", "fast_downward.translate.translate", "alfworld.agents.environment.alfred_tw_env"):
            importlib.import_module(module)
        textgen = importlib.import_module("textworld.envs.pddl.textgen")
        textgen.EvalSymbol.derive = _derive
    except ImportError as error:
        raise ImportError(
            f"ALFWorld needs the packages of the extra 'alfworld' ({error}); make install brings them"
        ) from error
    finally:
        sys.argv = arguments


def _derive(symbol: Any, context: Any = None) -> list[Any]:
    """In place of textworld's own, which hands an expression of the game's file to ``eval``."""
    variables = (context or symbol.context)["variables"]
    return [
        importlib.import_module("textworld.envs.pddl.textgen").TerminalSymbol(value_of(symbol.expression, variables))
    ]


class EngineSlot:
    """Loads and plays one game after another on one copy of the native engine.

    Not thread-safe and not picklable, like the engine. An engine object holds its copy of the native library until the
    process ends, so slots are reused: ``open_slot`` hands out what ``close_slot`` got back.

    Args:
        fast: Keep parses and translations; off, everything is textworld's own.
    """

    def __init__(self, fast: bool) -> None:
        self.fast = fast
        import_engine()
        _use_small_library()
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from fast_downward.translate.pddl_parser.lisp_parser import ParseError
        from tatsu.exceptions import ParseException
        from textworld import EnvInfos
        from textworld.envs.pddl.pddl import PddlEnv
        from textworld.envs.pddl.textgen import CSGUnknownSymbolError

        engine: Any = PddlEnv
        if fast:
            from gigpo_lightning.environments.alfworld.fast import FastPddlEnv

            engine = FastPddlEnv
        # What the parsers and the translator were seen to raise, or can, when a game file is broken.
        self._faults: tuple[type[BaseException], ...] = (
            *(OSError, ValueError, TypeError, AttributeError, LookupError, AssertionError, StopIteration, SystemExit),
            *(ParseError, ParseException, CSGUnknownSymbolError),
        )
        self._environment = AlfredDemangler(engine(EnvInfos(won=True, admissible_commands=True)), shuffle=False)

    def start(self, game: str | dict[str, Any]) -> Any:
        """Load a game's file, or its content, and reset it; textworld's state.

        Raises:
            ValueError: If it cannot be played; the message names the file.
        """
        arguments = sys.argv
        try:
            self._environment.load(game)
            return self._environment.reset()
        except self._faults as error:
            name = game if isinstance(game, str) else "given"
            raise ValueError(f"the game file {name} cannot be played: {error!r}") from error
        finally:
            sys.argv = arguments  # the translator overwrites it

    def step(self, command: str) -> tuple[Any, bool]:
        """Take an action; textworld's state, and whether the game is won."""
        state, _, _ = self._environment.step(command)
        return state, bool(state["won"])


_idle: dict[bool, list[EngineSlot]] = defaultdict(list)


def open_slot(fast: bool) -> EngineSlot:
    """A slot that nobody uses, or a new one."""
    return _idle[fast].pop() if _idle[fast] else EngineSlot(fast)


def close_slot(slot: EngineSlot) -> None:
    """Give a slot back for others to use."""
    _idle[slot.fast].append(slot)


@cache
def _use_small_library() -> None:
    """Let slots copy a native library of 1 MB instead of 34: without its debugging symbols, which nothing loads."""
    from fast_downward import interface

    whole = Path(interface.DOWNWARD_LIB_PATH).read_bytes()
    small = _loadable_part(whole)
    if len(small) < len(whole):
        folder = tempfile.TemporaryDirectory(prefix="gigpo-downward-")
        path = Path(folder.name) / "libdownward.so"
        path.write_bytes(small)
        interface.DOWNWARD_LIB_PATH = str(path)
        weakref.finalize(interface, folder.cleanup)


def _loadable_part(library: bytes) -> bytes:
    """An ELF library up to the end of its last segment, its table of sections struck out; else all of it."""
    if library[:6] != _ELF_64_LITTLE:
        return library
    (table,) = struct.unpack_from("<Q", library, 32)
    entry_size, num_entries = struct.unpack_from("<HH", library, 54)
    end = table + entry_size * num_entries
    for entry in range(table, end, entry_size):
        (offset,), (size,) = struct.unpack_from("<Q", library, entry + 8), struct.unpack_from("<Q", library, entry + 32)
        end = max(end, offset + size)
    small = bytearray(library[:end])
    struct.pack_into("<Q", small, 40, 0)
    struct.pack_into("<HHH", small, 58, 0, 0, 0)
    return bytes(small)
