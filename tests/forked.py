"""Programs in forks of a process that has imported what they need: importing takes as long as a short run."""

import atexit
import importlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess

ROOT = Path(__file__).resolve().parent.parent
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.imported"])


def start(
    module: str, words: Sequence[str], out: Path, err: Path | None = None, *, is_main: bool = False, **variables: str
) -> ForkServerProcess:
    """Begin ``main`` of a module.

    Args:
        module: Its name, such as ``gigpo_lightning.cli``.
        words: Its command line.
        out: What it prints is appended to this file.
        err: Its errors; default: to ``out`` as well.
        is_main: Whether it is ``__main__``, as for ``python -m``: a program that starts itself again asks for its name.
        **variables: Of its environment, beside this process's.
    """
    process = _CONTEXT.Process(target=_run, args=(module, list(words), out, err or out, is_main, variables))
    process.start()
    return process


def finish(process: ForkServerProcess, limit: float = 1200.0) -> int:
    """Wait for its end; the exit code, negative for a signal.

    Raises:
        TimeoutError: If it takes longer than ``limit`` seconds, at the end of which it is killed.
    """
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"a forked program took more than {limit} s")
    return process.exitcode


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


def _run(module: str, words: list[str], out: Path, err: Path, is_main: bool, variables: dict[str, str]) -> None:
    for path, stream in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ.update({"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables)
    os.chdir(ROOT)
    sys.argv = [module, *words]
    program = importlib.import_module(module)
    if is_main:
        sys.modules["__main__"] = program
    try:
        program.main()
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing ends without
