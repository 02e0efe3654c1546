"""The documents' code blocks: what they are, which files they bring along, and the commands in them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "benchmarks").glob("**/*.md")])
SHELLS = ("bash", "sh", "shell", "console")
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\w+\.(?:py|yaml))\n")


def blocks(document: Path, *languages: str) -> list[str]:
    """The code of a document's blocks in these languages."""
    return [code for language, code in FENCE.findall(document.read_text()) if language in languages]


def files(document: Path) -> dict[str, str]:
    """Blocks that begin with a file's name: what a reader is to write down."""
    named = ((FILE_NAME.match(code), code) for code in blocks(document, "python", "yaml"))
    return {name[1]: code for name, code in named if name}


def commands(program: str, document: Path) -> Iterator[list[str]]:
    """Words after a program's name, in every line of every shell block, as bash makes them; what is unset is empty."""
    for code in blocks(document, *SHELLS):
        for line in code.replace("\\\n", " ").splitlines():
            words = line.split()
            found = [number for number, word in enumerate(words) if word.rpartition("/")[2] == program]
            if found and not line.lstrip().startswith("#"):
                yield expanded(" ".join(words[found[0] + 1 :]))


def expanded(words: str) -> list[str]:
    """Have bash split words, expand variables and leave out comments."""
    bare = {"PATH": os.environ["PATH"]}
    script = f"printf '%s\\0' {words}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=bare)
    return [word for word in result.stdout.split("\0")[:-1] if word]


class Desk:
    """A folder with what a document tells its reader to write down, beside the checkout's configs and benchmarks."""

    def __init__(self, document: Path, folder: Path) -> None:
        self.folder = folder
        self.names = files(document)
        for name, code in self.names.items():
            (folder / name).write_text(code)
        for name in ("configs", "benchmarks"):
            (folder / name).symlink_to(ROOT / name)

    def forget(self) -> None:
        """Another document's file of the same name is another module."""
        for name in self.names:
            sys.modules.pop(name.removesuffix(".py"), None)
