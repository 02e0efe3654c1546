"""What the documents say can be done, can be done."""

import re
import shlex
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path

import pytest

from gigpo_lightning.rollout.vllm_server import server_command
from gigpo_lightning.sweep.command import command_line
from gigpo_lightning.sweep.composition import compose

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "benchmarks").glob("**/*.md")])
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
SHELLS = ("bash", "sh", "shell", "console")
SUBCOMMANDS = {"fit", "validate", "test", "predict"}
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|#|mailto:)([^)#\s]+)[^)]*\)")


def blocks(languages: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    for document in DOCUMENTS:
        for language, code in FENCE.findall(document.read_text()):
            if language in languages:
                yield document, code


def commands(program: str) -> Iterator[tuple[Path, list[str]]]:
    """Words after a program's name, in every line of every shell block."""
    for document, code in blocks(SHELLS):
        for line in code.replace("\\\n", " ").splitlines():
            words = list(dropwhile(lambda word: "=" in word, line.removeprefix("$ ").split("#")[0].split()))
            if words and words[0].rpartition("/")[2] == program:
                yield document, words[1:]


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for _, words in commands("make") for word in words if "=" not in word}
    assert {"train", "test"} <= named
    assert named - targets == set()


def test_every_target_of_the_makefile_is_in_its_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"^([a-z-]+):.*## \w", makefile, re.MULTILINE)) == targets


def test_every_subcommand_in_the_documents_exists() -> None:
    named = {words[0] for _, words in commands("gigpo") if words and not words[0].startswith("-")}
    assert "fit" in named
    assert named <= SUBCOMMANDS


def test_every_server_command_in_the_documents_is_one() -> None:
    servers = [words for _, words in commands("gigpo-server")]
    assert servers
    assert all(server_command(words)[0][-4] == "--host" for words in servers)


def test_every_sweep_in_the_documents_composes() -> None:
    sweeps = [shlex.split(" ".join(words)) for _, words in commands("gigpo-sweep")]
    assert sweeps
    for words in sweeps:
        arguments = command_line().parse_intermixed_args(words)
        assert compose(arguments.config_name, arguments.config_dir, arguments.overrides, arguments.multirun).runs


def test_every_config_in_the_documents_exists() -> None:
    named = {name for document in DOCUMENTS for name in re.findall(r"configs/[\w./-]+\.yaml", document.read_text())}
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []


def test_every_test_that_a_document_names_exists() -> None:
    named = {name for document in DOCUMENTS for name in re.findall(r"`(test_[a-z_0-9]+)`", document.read_text())}
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 10
    assert sorted(name for name in named if f"def {name}(" not in sources) == []


def test_every_config_is_in_the_documents() -> None:
    texts = "\n".join(document.read_text() for document in DOCUMENTS)
    assert [str(config) for config in CONFIGS if config.relative_to(ROOT).as_posix() not in texts] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file(document: Path) -> None:
    assert [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_python_of_a_document_runs_from_top_to_bottom(document: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__document__"}
    for path, code in blocks(("python",)):
        if path == document:
            exec(compile(code, str(document), "exec"), namespace)
