"""What ends a run although its configuration is right, and how a wrong number is refused."""

import argparse
import contextlib
import math
import signal
import traceback
from collections.abc import Iterator


class RunError(RuntimeError):
    """A run cannot go on: its engine, its weights or an environment is not what it must be.

    The message says what was found and what to do; the command line shows it without the traceback of our own code.
    """


class RuleError(RunError):
    """No run can go on because an environment breaks a rule in every episode, not because it misses something."""


class ShapeUnknownError(RuntimeError):
    """A policy cannot be made without its weights, as what describes it is not on this machine."""


class NothingPlayedError(RunError):
    """The environment failed on every task of a rollout; engine and pool are as they should be."""


class Preempted(RuntimeError):
    """The machine was wanted back and the run has stopped; nothing is wrong with it.

    Attributes:
        exit_code: What the process ends with: 128 plus the number of SIGTERM, as a shell would say it.
    """

    exit_code = 128 + signal.SIGTERM


class StoppedBySignal(SystemExit):
    """A signal's handler ends the process; whatever it interrupts is not the one that wants to exit."""


def is_ctrl_c(error: BaseException) -> bool:
    """Whether a user has stopped the process by Ctrl-C; a Trainer that it reaches ends by ``SystemExit``."""
    return isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt)


@contextlib.contextmanager
def no_exit() -> Iterator[None]:
    """Let no code of a user's own end a run by ``sys.exit``, which with code 0 would look like its success.

    Raises:
        RunError: In place of SystemExit; the message says where it was raised.
    """
    try:
        yield
    except SystemExit as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        asked = last.filename == argparse.__file__ or is_ctrl_c(error)
        if asked or type(error) is not SystemExit:  # --help and Ctrl-C; signals have classes of their own
            raise
        raise RunError(
            f"{last.filename}, line {last.lineno}, in {last.name}: sys.exit({error.code!r}) in the middle of a run; "
            "what a run calls must return, or raise an error that says what is wrong"
        ) from error


def check_range(
    name: str, value: float | int, low: float | int = 0.0, high: float | int = math.inf, *, why: str = ""
) -> None:
    """Refuse a number that is not finite or not within its bounds, both included; ``why`` follows the rule in brackets.

    Raises:
        ValueError: If the value is out of bounds; the message names the argument, the rule and the value.

    Example:
        >>> check_range("discount", 1.5, 0.0, 1.0)
        Traceback (most recent call last):
        ValueError: discount must be in [0, 1], got 1.5
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and low <= value <= high and -math.inf < value < math.inf:
        return
    finite = " and finite" if value == math.inf else ""  # which is >= any number
    least = "finite" if math.isinf(low) else f">= {low:g}{finite}"
    rule = least if math.isinf(high) else f"in [{low:g}, {high:g}]"
    raise ValueError(f"{name} must be {rule}{f' ({why})' if why else ''}, got {value}")


def check_count(name: str, value: int, least: int = 1, most: float | int = math.inf, *, why: str = "") -> None:
    """Refuse what is no whole number, or not within its bounds, both included; ``why`` ends the message.

    Raises:
        ValueError: If it is so; the message names the argument, the rule and the value.

    Example:
        >>> check_count("max_steps", 0)
        Traceback (most recent call last):
        ValueError: max_steps must be >= 1, got 0
    """
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return
    rule = f">= {least}" if math.isinf(most) else f"in [{least}, {most}]"
    raise ValueError(f"{name} must be {rule}, got {value}" + (f": {why}" if why else ""))


LARGEST_SEED = 2**32 - 1
"""The largest seed that every generator takes: NumPy's and Lightning's go no further."""


def check_seed(value: int, name: str = "seed") -> None:
    """Refuse a seed that some generator would not take.

    Raises:
        ValueError: If it is negative or too large.
    """
    check_count(name, value, 0, LARGEST_SEED)
