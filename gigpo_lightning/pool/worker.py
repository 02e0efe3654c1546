"""A worker process's life: it carries out what its parent asks, and nothing that it started outlives it.

It imports this file and the environment's, and so neither torch nor an engine.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

from gigpo_lightning.environments.base import Environment, Waits, WarmsUp
from gigpo_lightning.errors import RunError
from gigpo_lightning.pool.copies import Command, EnvironmentCopies, in_one_process

READY = "ready"
"""What a worker says first."""

_MOST_THREADS = 1 << 12  # made when needed, one a command: none may wait for another

_logger = logging.getLogger(__name__)


def serve(connection: Connection, environment: Environment, folder: str) -> None:
    """Carry out commands until told to stop or the parent is gone."""
    # A killed process cannot clean up: temporary files go into a folder that the parent removes.
    os.environ["TMPDIR"], tempfile.tempdir = folder, None
    _be_deaf_to_the_parents_signals()
    _lead_a_group()
    copies = EnvironmentCopies(environment, keyboard=False)
    try:
        connection.send(_warm_up(environment) or READY)
        if waits(environment):
            _serve_in_threads(connection, copies)
        else:
            while (message := connection.recv()) is not None:
                connection.send(copies.carry_out(*message))
    except (EOFError, ConnectionError):
        _logger.debug("the parent process has gone")
    except OSError as error:
        _logger.warning("the environment's process has lost its connection to the trainer: %s", error)
    finally:
        copies.close()
        with contextlib.suppress(OSError):
            connection.close()


def _be_deaf_to_the_parents_signals() -> None:
    """Leave Ctrl-C and a scheduler's warning to the parent; processes that an environment starts hear them."""

    def hear(handler: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handler)  # type: ignore[arg-type]

    hear(lambda number, frame: None)  # SIG_IGN would be inherited, and ``terminate()`` would end no child
    os.register_at_fork(after_in_child=lambda: hear(signal.SIG_DFL))


def _lead_a_group() -> None:
    """Lead a process group that ends with this process, also if the parent is killed."""
    os.setpgid(0, 0)
    multiprocessing.current_process().daemon = False  # a daemon may not have children
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_with_parent, name="end-with-parent", daemon=True).start()


def _warm_up(environment: Environment) -> str:
    """Warm an environment up; returns what went wrong, if anything did."""
    try:
        with in_one_process(environment):
            if isinstance(environment, WarmsUp):
                environment.warm_up()
    except BaseException as error:  # the parent must hear of any error of a user's environment
        return str(error) if isinstance(error, RunError | ValueError) else traceback.format_exc()
    return ""


def waits(environment: Environment) -> bool:
    """Whether an environment's copies may be stepped at the same time, because it mostly waits."""
    return isinstance(environment, Waits) and environment.waits


def _serve_in_threads(connection: Connection, copies: EnvironmentCopies) -> None:
    """Carry out commands of different slots side by side, and answer each when it ends."""
    sending = threading.Lock()

    def carry_out(slot: int, command: Command) -> None:
        event = copies.carry_out(slot, command)
        with sending, contextlib.suppress(ConnectionError):  # the parent may have gone
            connection.send(event)

    threads = ThreadPoolExecutor(_MOST_THREADS)
    try:
        while (message := connection.recv()) is not None:
            threads.submit(carry_out, *message)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
