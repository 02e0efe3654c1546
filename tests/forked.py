"""Programs in forks of a process that has imported what they need: importing takes as long as a short run."""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import CompletedProcess

ROOT = Path(__file__).resolve().parent.parent
_ADDRESS = "GIGPO_FORK_SERVER"  # of this process and of those that it begins


class Program:
    """A program under way in a fork of the server's.

    Attributes:
        pid: Its process.
        exitcode: None before its end, negative for a signal.
    """

    def __init__(self, *order: object) -> None:
        address = serve()
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(address)
            self._server = Connection(server.detach())
            self._server.send(order)
            self.pid: int = self._server.recv()
        except (EOFError, ConnectionError) as error:
            said = Path(address).with_name("log").read_text()
            raise RuntimeError(f"the server of forks has ended: {said}") from error
        self.exitcode: int | None = None

    def join(self, limit: float) -> None:
        """Wait for its end, ``limit`` seconds at most."""
        if self.exitcode is None and self._server.poll(limit):
            self.exitcode = self._server.recv()
            self._server.close()

    def kill(self) -> None:
        """End it at once, unless it has ended."""
        if self.exitcode is None and not self._server.poll():
            os.kill(self.pid, signal.SIGKILL)


def serve() -> str:
    """Begin the server of this process and of those that it begins, unless there is one; its address."""
    if _ADDRESS not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="gigpo"))
        address = str(folder / "orders")
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with socket.socket(socket.AF_UNIX) as orders, (folder / "log").open("w") as log:
            orders.bind(address)
            orders.listen(64)  # orders wait while it imports
            server = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", str(orders.fileno())],
                stdin=subprocess.PIPE,
                stderr=log,
                pass_fds=[orders.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                cwd=ROOT,
            )
        os.environ[_ADDRESS] = address
        atexit.register(shutil.rmtree, folder)
        atexit.register(server.communicate)  # its standard input ends, and so does it
    return os.environ[_ADDRESS]


def start(
    module: str, words: Sequence[str], out: Path, err: Path | None = None, *, is_main: bool = False, **variables: str
) -> Program:
    """Begin ``main`` of a module.

    Args:
        module: Its name, such as ``gigpo_lightning.cli``.
        words: Its command line.
        out: What it prints is appended to this file.
        err: Its errors; default: to ``out`` as well.
        is_main: Whether it is ``__main__``, as for ``python -m``: a program that starts itself again asks for its name.
        **variables: Of its environment, beside the server's.
    """
    return Program(module, list(words), out, err or out, is_main, variables)


def finish(program: Program, limit: float = 1200.0) -> int:
    """Wait for its end; the exit code, negative for a signal.

    Raises:
        TimeoutError: If it takes longer than ``limit`` seconds, at the end of which it is killed.
    """
    program.join(limit)
    if program.exitcode is None:
        program.kill()
        raise TimeoutError(f"a forked program took more than {limit} s")
    return program.exitcode


def gigpo(folder: Path, *words: str) -> CompletedProcess[str]:
    """What ``gigpo`` does in the checkout, its runs in a folder of the test's."""
    return run("gigpo_lightning.cli", *words, "--trainer.default_root_dir", str(folder))


def console_script(folder: Path, *arguments: str) -> CompletedProcess[str]:
    """The same by the script that users call: no fork, a Python of its own."""
    script = Path(sys.executable).parent / "gigpo"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    options = ["--trainer.default_root_dir", str(folder)]
    return subprocess.run(
        [script, *arguments, *options],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=1200,
        cwd=ROOT,
    )


def run(module: str, *words: str) -> CompletedProcess[str]:
    """What ``main`` of a module does with a command line, and what it says."""
    with tempfile.TemporaryDirectory() as streams:
        out, err = (Path(streams) / name for name in ("out", "err"))
        code = finish(start(module, words, out, err, COLUMNS="120"))
        return CompletedProcess(words, code, out.read_text(), err.read_text())


def places(ranks: int) -> list[dict[str, str]]:
    """The environment of each of a job's ranks on this machine, as ``torchrun`` would set it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    names = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GROUP_RANK": "0"}
    names |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    return [names | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
