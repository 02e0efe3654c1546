"""A process that has imported what programs need, and makes a fork of itself for each: one for all tests.

``python -m tests.fork_server DESCRIPTOR`` takes orders at a listening socket. An order is what ``carry_out`` takes; its
answers are the program's process id and, at its end, its exit code: negative for a signal.
"""

import atexit
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from tests.forked import ROOT


def main() -> None:
    """Answer orders until standard input ends, which says that the tests have ended."""
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        importlib.import_module("tests.imported")
        gc.collect()
        gc.freeze()  # nothing of it is ever garbage: a program's collector need not look at it
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that attend
        while orders in select.select([orders, sys.stdin], [], [])[0]:
            order, _ = orders.accept()
            if os.fork() == 0:
                attend(Connection(order.detach()))
            order.close()


def attend(client: Connection) -> None:
    """Carry out an order in a fork of this process, and end with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    order = client.recv()
    program = os.fork()
    if program == 0:
        os._exit(carry_out(*order))
    client.send(program)
    client.send(os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]))
    os._exit(0)


def carry_out(module: str, words: list[str], out: Path, err: Path, is_main: bool, variables: dict[str, str]) -> int:
    """Be ``python -m module words`` in the checkout; its exit code."""
    for path, stream in ((os.devnull, 0), (out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), stream)
    os.environ.update({"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables)
    os.chdir(ROOT)
    sys.argv = [module, *words]
    code: object = 0
    try:
        program = importlib.import_module(module)
        if is_main:
            sys.modules["__main__"] = program
        program.main()
    except SystemExit as ended:
        code = ended.code or 0
        if not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
    except BaseException:  # as the interpreter does
        traceback.print_exc()
        code = 1
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    return code if isinstance(code, int) else 1


if __name__ == "__main__":
    main()
