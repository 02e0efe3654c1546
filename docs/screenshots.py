"""Takes the pictures of docs/tensorboard.md: a run's folder in a real TensorBoard, seen through a real browser.

python docs/screenshots.py RUN_FOLDER [FOLDER]

Needs `pip install playwright`, and Chromium: the system's, or what `playwright install chromium` brings. The run that
is on the page took some minutes:

gigpo fit --config configs/alfworld/tiny_cpu.yaml --trainer.max_epochs 12 --trainer.check_val_every_n_epoch 6 \
    --data.init_args.held_out_repeats 4 --data.init_args.tasks.init_args.scenes.valid_unseen 120 \
    --data.init_args.tasks.init_args.data_dir data/screenshots

with ``every_n_epochs: 3`` for ``callbacks.GroupFigure`` and ``text_every_n_epochs: 3`` for ``callbacks.Transcripts``.
"""

import re
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
from playwright.sync_api import Locator, Page, sync_playwright

LARGEST = 150_000  # bytes of a picture
WIDTH = 1280
MARGIN = 6


@contextmanager
def tensorboard(run: Path) -> Iterator[str]:
    """Serve a run; where it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_loaded(address)
        yield address
    finally:
        process.terminate()
        process.wait()


def wait_until_loaded(address: str, patience: float = 120.0) -> None:
    """Wait until the figures of the evaluations are there, the last to be written."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/data/plugin/images/tags", timeout=5) as reply:
                if b"outcomes" in reply.read():
                    return
        except OSError:
            pass  # not up yet
        time.sleep(1.0)
    raise TimeoutError(f"TensorBoard must show a figure of held-out outcomes, but has none after {patience} s")


def take(page: Page, path: Path, *elements: Locator) -> None:
    """Keep the part of a page that has these elements, in fewer colours where the file would be too large."""
    page.wait_for_timeout(1500)  # charts move into place
    boxes = [each.bounding_box() for each in elements]
    left, top = (min(box[side] for box in boxes) - MARGIN for side in ("x", "y"))
    right = max(box["x"] + box["width"] for box in boxes) + MARGIN
    foot = max(box["y"] + box["height"] for box in boxes) + MARGIN
    area = {"x": max(0, left), "y": max(0, top), "width": right - left, "height": foot - top}
    page.screenshot(path=path, clip=area)
    picture = Image.open(path).convert("RGB")
    picture.save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{path} must be at most {LARGEST} bytes, got {size}")


def open_tab(page: Page, address: str, tab: str, height: int) -> None:
    """Show a tab in a window so high that all of what is wanted is in it."""
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.goto("about:blank")
    page.goto(f"{address}/?darkMode=false#{tab}")
    page.locator("tf-category-paginated-view:visible").first.wait_for()
    page.wait_for_timeout(3000)


def custom_scalars(page: Page, address: str, folder: Path) -> None:
    """The charts of learning, of credit with the names of their lines, of the engine and of time."""
    open_tab(page, address, "custom_scalars", 2600)
    page.get_by_text("Ignore outliers in chart scaling").click()
    smoothing = page.locator("tf-smoothing-input input").first
    smoothing.fill("0")
    smoothing.press("Enter")
    groups, charts = page.locator("tf-category-paginated-view"), page.locator("tf-custom-scalar-multi-line-chart-card")
    page.wait_for_timeout(3000)
    for fit in charts.locator("paper-icon-button[icon=settings-overscan]").all():
        fit.click()  # a chart keeps the range of its first data
    groups.nth(0).locator("button.heading").scroll_into_view_if_needed()
    take(page, folder / "tensorboard_learning.png", groups.nth(0).locator("button.heading"), charts.nth(5))
    groups.nth(0).locator("button.heading").click()
    of_credit = groups.nth(1).locator("tf-custom-scalar-multi-line-chart-card")
    of_credit.nth(0).locator("paper-icon-button").nth(0).click()  # as wide as the page
    of_credit.nth(0).locator(".toggle-matches-button").click()
    page.wait_for_timeout(1500)
    of_credit.nth(0).locator("paper-icon-button[icon=settings-overscan]").click()
    take(page, folder / "tensorboard_credit.png", groups.nth(1).locator("button.heading"), of_credit.nth(3))
    for number, name in ((2, "engine"), (3, "time")):
        groups.nth(number - 1).locator("button.heading").click()  # only one is open at a time
        heading = groups.nth(number).locator("button.heading")
        heading.scroll_into_view_if_needed()
        of_group = groups.nth(number).locator("tf-custom-scalar-multi-line-chart-card")
        take(page, folder / f"tensorboard_{name}.png", heading, *of_group.all())


def figures(page: Page, address: str, folder: Path) -> None:
    """The group of episodes and the outcomes, in their own size."""
    open_tab(page, address, "images", 1800)
    page.get_by_text("Show actual image size").click()
    page.wait_for_timeout(3000)
    for name, tag in (("group", "rollout/group"), ("outcomes", re.compile("held_out/.*/outcomes"))):
        card = page.locator("tf-image-loader").filter(has_text=tag)
        take(page, folder / f"tensorboard_{name}.png", card)


def histograms(page: Page, address: str, folder: Path) -> None:
    """Sizes of anchor groups and both advantages."""
    open_tab(page, address, "histograms", 1000)
    cards = page.locator("tf-histogram-loader")
    take(page, folder / "tensorboard_histograms.png", *cards.all())


def texts(page: Page, address: str, folder: Path) -> None:
    """Two episodes to read: the best of a rollout, and the worst of an evaluation."""
    open_tab(page, address, "text", 3200)
    for name, tag in (("text", "rollout/best"), ("held_out", re.compile("held_out/.*/worst"))):
        card = page.locator("tf-text-loader").filter(has_text=tag)
        take(page, folder / f"tensorboard_{name}.png", card)


def main(run: Path, folder: Path) -> None:
    """Take all pictures."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    with tensorboard(run) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page()
        for part in (custom_scalars, figures, histograms, texts):
            part(page, address, folder)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent)
