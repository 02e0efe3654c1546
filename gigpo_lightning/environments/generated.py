"""Folders of data made offline: there whole or not at all, and never taken for those of other settings."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes ``folder`` at the end; if that fails, nothing is left.

    Args:
        folder: What is made; the folder that it stands in is made, too.

    Raises:
        OSError: If there is something in its place by then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's own would keep other users out
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_unless_there(is_made: Callable[[], bool], make: Callable[[], None]) -> None:
    """Make what is not there yet, whoever else is making it at the same time.

    Args:
        is_made: Whether it is there; raises if something else is in its place.
        make: Makes it, by ``new_folder``.

    Raises:
        OSError: If it cannot be made.
    """
    if is_made():
        return
    try:
        make()
    except OSError:
        if not is_made():  # else another process was quicker
            raise


def check_made_with(folder: Path, manifest: str, wanted: Mapping[str, object], what: str, argument: str) -> None:
    """Refuse a folder that was not made with these settings, which its file ``manifest`` holds as JSON.

    The message says ``what`` the folder should hold, and the ``argument`` that names its place.

    Raises:
        ValueError: If it was made with others, or not made at all; the message names the folder and what differs.
    """
    try:
        found = json.loads((folder / manifest).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{argument} must be free for {what}, but {folder} has no readable {manifest}; use what it holds as it "
            "is, or choose another folder"
        ) from error
    different = {key: (found.get(key), wanted[key]) for key in wanted if found.get(key) != wanted[key]}
    if different:
        listed = ", ".join(f"{key} {there!r} instead of {asked!r}" for key, (there, asked) in different.items())
        raise ValueError(f"{folder} holds {what} made with {listed}; choose another {argument}, or delete the folder")
