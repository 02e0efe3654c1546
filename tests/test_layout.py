"""What is read is what is imported: four sibling packages, thin where their names are generic."""

import ast
import importlib
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

PACKAGES = ("gigpo_lightning", "modules", "datamodules", "callbacks")
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers", "data"}
LONGEST_FILE = 400
LONGEST_FUNCTION = 60


def sources(root: Path) -> list[Path]:
    return sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_imported_from_this_checkout(package: str, repository_root: Path) -> None:
    file = importlib.import_module(package).__file__
    assert file is not None
    assert Path(file) == repository_root / package / "__init__.py"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_tells_type_checkers_that_it_is_typed(package: str, repository_root: Path) -> None:
    assert (repository_root / package / "py.typed").is_file()


def test_the_root_holds_the_four_packages_and_the_tests_and_no_other(repository_root: Path) -> None:
    found = {path.parent.name for path in repository_root.glob("*/__init__.py")}
    assert found - {"benchmarks"} == {*PACKAGES, "tests"}


def test_every_folder_with_modules_is_a_package(repository_root: Path) -> None:
    folders = {path.parent for path in (*sources(repository_root), *(repository_root / "tests").rglob("*.py"))}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_configs_are_data_and_no_package(repository_root: Path) -> None:
    assert list((repository_root / "configs").rglob("__init__.py")) == []


def test_no_module_hides_one_of_the_standard_library(repository_root: Path) -> None:
    names = {path: path.parent.name if path.stem == "__init__" else path.stem for path in sources(repository_root)}
    assert [str(path) for path, name in names.items() if name in sys.stdlib_module_names] == []


def test_no_module_has_a_name_that_says_nothing(repository_root: Path) -> None:
    assert [str(path) for path in sources(repository_root) if {path.stem, path.parent.name} & VAGUE_NAMES] == []


def test_the_console_scripts_open_the_one_door_and_the_one_before_it() -> None:
    scripts = distribution("gigpo-lightning").entry_points.select(group="console_scripts")
    assert scripts["gigpo"].value == "gigpo_lightning.console:gigpo"
    assert scripts["gigpo-sweep"].value == "gigpo_lightning.console:sweep"


def test_no_file_is_longer_than_it_is_read(repository_root: Path) -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in sources(repository_root)}
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_longer_than_a_screen(repository_root: Path) -> None:
    too_long = {}
    for path in sources(repository_root):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node, clean=False) or ""
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1 - (docstring.count("\n") + 1)
                if length > LONGEST_FUNCTION:
                    too_long[f"{path}:{node.lineno} {node.name}"] = length
    assert too_long == {}
