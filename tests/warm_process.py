"""Runs of the command line in forks of a process that has imported it: importing takes as long as a short run."""

import atexit
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

ROOT = Path(__file__).resolve().parent.parent
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.imported"])


def gigpo(folder: Path, *words: str, limit: float = 1200.0) -> CompletedProcess[str]:
    """Run ``gigpo`` in the checkout, its runs in a folder of the test's.

    Raises:
        TimeoutError: If it takes longer than ``limit`` seconds.
    """
    command = ["gigpo", *words, "--trainer.default_root_dir", str(folder)]
    with tempfile.TemporaryDirectory() as streams:
        out, err = (Path(streams) / name for name in ("out", "err"))
        process = _CONTEXT.Process(target=_run, args=(command, out, err))
        process.start()
        process.join(limit)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{' '.join(command)} took more than {limit} s:\n{err.read_text()[-4000:]}")
        return CompletedProcess(command, process.exitcode, out.read_text(), err.read_text())


def _run(command: Sequence[str], out: Path, err: Path) -> None:
    """Do what the console script does."""
    from gigpo_lightning.cli import main

    for path, stream in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.update(COLUMNS="120", PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    os.chdir(ROOT)
    sys.argv = list(command)
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing ends without
