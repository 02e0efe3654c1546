"""Servers in processes of their own."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT
from tests.scripts import loaded

FOLDER = Path(__file__).parent
with loaded(ROOT / "tools" / "environments.py") as fetched:
    PACKAGE = fetched.openenv()
"""Where `make test` has put OpenEnv's package: for servers alone, as it needs an older ``mcp`` than vLLM."""
_LIMIT = 120.0  # seconds; the package imports for some


@contextmanager
def served(kind: str) -> Iterator[str]:
    """The address of a server: ``by_hand``, or one of the package, ``text`` or ``tools``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    name, words = ("by_hand.py", [port]) if kind == "by_hand" else ("package_server.py", [kind, port])
    environment = os.environ if kind == "by_hand" else os.environ | {"PYTHONPATH": str(PACKAGE)}
    command = [sys.executable, str(FOLDER / name), *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        end = time.monotonic() + _LIMIT
        while not _answers(f"http://127.0.0.1:{port}/schema"):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                raise RuntimeError(f"the server has not started: {process.communicate()[1][-2000:]}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5.0):
            return True
    except (urllib.error.URLError, OSError):
        return False
