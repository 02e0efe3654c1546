"""What `make install` decides before it installs anything."""

import json
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.scripts import loaded


@pytest.fixture
def installer(repository_root: Path) -> ModuleType:
    """The script as a module of its own, so that a test may move its folders."""
    with loaded(repository_root / "tools" / "install.py") as module:
        return module


@pytest.fixture
def project(repository_root: Path) -> dict[str, Any]:
    return tomllib.loads((repository_root / "pyproject.toml").read_text())


def test_a_new_dependency_asks_for_an_installation(installer: ModuleType, project: dict[str, Any]) -> None:
    before = installer.digest(project)
    project["project"]["dependencies"].append("einops")
    assert installer.digest(project) != before


def test_a_linters_setting_asks_for_none(installer: ModuleType, project: dict[str, Any]) -> None:
    before = installer.digest(project)
    project["tool"]["ruff"]["line-length"] = 80
    assert installer.digest(project) == before


def test_what_is_installed_already_is_left_alone(
    installer: ModuleType, project: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "VENV", tmp_path)
    monkeypatch.setattr(installer, "STAMP", tmp_path / "stamp.json")
    monkeypatch.setenv("PATH", "")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gigpo").touch()
    installer.STAMP.write_text(json.dumps({"extra": "cpu", "digest": installer.digest(project)}))
    installer.install("cpu")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bin", "gigpo", "stamp.json"]


def test_a_missing_compiler_is_named_before_anything_is_compiled(
    installer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "WHEELS", tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(installer.InstallError, match=r"cc, c\+\+, make"):
        installer.build_wheels(["jericho==3.3.1"])


def test_a_wheel_that_was_compiled_once_needs_no_compiler(
    installer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "WHEELS", tmp_path)
    monkeypatch.setenv("PATH", "")
    wheel = tmp_path / "fast_downward_textworld-20.6.4-py3-none-any.whl"
    wheel.touch()
    installer.build_wheels(["fast-downward-textworld==20.6.4"])
    assert list(tmp_path.iterdir()) == [wheel]


def test_uv_looks_where_pip_is_told_to_look(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://one.example https://two.example")
    monkeypatch.setenv("PIP_FIND_LINKS", "/first /second")
    settings = installer.uv_settings()
    assert settings["UV_DEFAULT_INDEX"] == "https://index.example/simple"
    assert settings["UV_INDEX"] == "https://one.example https://two.example"
    assert settings["UV_FIND_LINKS"] == f"/first,/second,{installer.WHEELS}"


def test_what_uv_was_told_directly_wins(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_FIND_LINKS", "/uv")
    monkeypatch.setenv("PIP_FIND_LINKS", "/pip")
    assert installer.uv_settings()["UV_FIND_LINKS"] == f"/uv,{installer.WHEELS}"
