"""Takes the pictures of docs/tensorboard.md: a run's folder in a real TensorBoard, seen through a real browser.

python docs/screenshots.py RUN_FOLDER [FOLDER]

Needs `pip install playwright pillow`, and Chromium: the system's, or the one of `playwright install chromium`. A run to
look at takes some minutes; twelve epochs say enough, drawn every third:

gigpo fit --config configs/alfworld/tiny_cpu.yaml --trainer.max_epochs 12 --trainer.check_val_every_n_epoch 6
"""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

LARGEST = 150_000  # bytes of a picture
WIDTH, HEIGHT = 1280, 860


@contextmanager
def tensorboard(run: Path) -> Iterator[str]:
    """Serve a run; where it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--port", str(port)]
    process = subprocess.Popen([*command, "--load_fast", "false"], stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_loaded(address)
        yield address
    finally:
        process.terminate()
        process.wait()


def wait_until_loaded(address: str, patience: float = 120.0) -> None:
    """Wait until the run's figures are there, the last thing to be read."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/data/plugin/images/tags", timeout=5) as reply:
                if b"outcomes" in reply.read():
                    return
        except OSError:
            pass  # not up yet
        time.sleep(1.0)
    raise TimeoutError(f"TensorBoard has shown no figure of held-out outcomes within {patience} s")
