"""Folders of data made offline: there whole or not at all, and never taken for those of other settings."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path


def make_once(
    folder: Path, manifest: str, settings: Mapping[str, object], what: str, argument: str, write: Callable[[Path], None]
) -> None:
    """Make a folder unless it is there, whoever else is making it at the same time; if that fails, nothing is left.

    Args:
        folder: What is made; the folder that it stands in is made, too. An empty one may be there.
        manifest: Name of the file in it that holds its settings, as JSON.
        settings: What it is made with.
        what: What it holds, for messages.
        argument: What names its place, for messages.
        write: Writes all the rest into the folder that it is given.

    Raises:
        ValueError: If something else is in its place, or was made with other settings; the message names both.
        OSError: If it cannot be made.
    """
    if _is_made(folder, manifest, settings, what, argument):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(partial)
        (partial / manifest).write_text(json.dumps(settings, indent=1))
        partial.chmod(0o755)  # mkdtemp's own would keep other users out
        partial.rename(folder)
    except OSError:
        if not _is_made(folder, manifest, settings, what, argument):  # else another process was quicker
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_made(folder: Path, manifest: str, wanted: Mapping[str, object], what: str, argument: str) -> bool:
    """Whether the folder is there, made with these settings; with others, or not made at all, it is refused."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
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
    return True
