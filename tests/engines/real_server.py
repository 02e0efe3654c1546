"""A real vLLM server on loopback, started by the documented command."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class RealServer:
    url: str
    process: subprocess.Popen
    log: Path

    def kill(self) -> None:
        """End it with all its processes, as a machine that fails does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def real_server(model: Path, *options: str, variables: Mapping[str, str] | None = None) -> Iterator[RealServer]:
    """Start `gigpo-server`; it takes most of a minute until it answers, which the engine waits for."""
    port = free_port()
    command = Path(sys.executable).with_name("gigpo-server")
    cache = ("--kv-cache-memory-bytes", str(1 << 27))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.NamedTemporaryFile(prefix="gigpo-server-", suffix=".log") as log:
        process = subprocess.Popen(
            [command, model, "--port", str(port), *cache, *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment | dict(variables or {}),
        )
        server = RealServer(f"http://127.0.0.1:{port}", process, Path(log.name))
        try:
            yield server
        finally:
            if process.poll() is None:
                server.kill()
