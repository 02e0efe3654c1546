"""What is said of a ``model`` that is no checkpoint folder: what was found there, and what to give instead."""

import re
import shlex
from pathlib import Path

from gigpo_lightning.disk import checkpoints_in
from gigpo_lightning.suggestions import did_you_mean

_RULE = "model must be a checkpoint folder or a hub name that can be loaded"
_RUN_FILES = ("config.yaml", "manifest.json", "checkpoints", "lightning_logs")
# Some tokenizer's file; of a policy in GGUF it is in the policy's own.
_OF_TOKENIZER = re.compile(r"token|vocab|spiece|sentencepiece|spm|bpe|merges|tekken|\.gguf$")
_LONGEST_LIST = 5


def check_model(model: str) -> None:
    """Refuse what is at a path and no checkpoint's folder; a name that is no path passes.

    Raises:
        ValueError: If it is a file of weights, a run's checkpoint, a run's folder, or has no tokenizer, of which
            Transformers would make an empty one.
    """
    path = Path(model)
    if path.suffix == ".ckpt" and path.exists():
        raise ValueError(f"{_RULE}, got {model!r}, a run's checkpoint; {_export(path)}")
    if path.is_file() and path.suffix != ".gguf":
        raise ValueError(f"{_RULE}, got the file {model!r}; give the folder that it is in, {str(path.parent)!r}")
    if not path.is_dir():
        return
    names = [each.name for each in path.iterdir()]
    if "config.json" in names and not any(map(_OF_TOKENIZER.search, names)):
        raise ValueError(
            f"{_RULE}, got {model!r}, which has no tokenizer (tokenizer.json, tokenizer_config.json); it holds "
            f"{_listed(names)}. Copy the tokenizer's files from the checkpoint that it was made of"
        )
    if "config.json" not in names and any(name in _RUN_FILES for name in names):
        found = sorted(checkpoints_in(path))
        raise ValueError(f"{_RULE}, got {model!r}, a run's folder; {_export(found[-1] if found else Path('last'))}")


def why_not(model: str, error: BaseException, is_name: bool = False) -> str:
    """Why a model could not be loaded, by what is at its path.

    Args:
        model: Folder or hub name.
        error: What Transformers says.
        is_name: Whether it could be a name on the hub; if not, what Transformers says of it is beside the point.
    """
    path = Path(model)
    if path.exists():
        return f"{_RULE}, got {model!r}: {error}"
    here = path.parent.is_dir() and str(path.parent) != "."
    near = did_you_mean(path.name, (each.name for each in path.parent.iterdir() if each.is_dir())) if here else ""
    said = f"{error}" if is_name else "there is no such folder"
    return f"{_RULE}, got {model!r}: {said}{near}"


def _export(checkpoint: Path) -> str:
    return (
        f"gigpo export --ckpt_path {shlex.quote(str(checkpoint))} --folder out makes a checkpoint folder of it, and "
        "--ckpt_path alone goes on with its training"
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LONGEST_LIST} more" if len(names) > _LONGEST_LIST else ""
    return f"{', '.join(sorted(names)[:_LONGEST_LIST])}{more}"
