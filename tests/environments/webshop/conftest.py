"""Fixtures of the WebShop tests."""

from pathlib import Path

import pytest

from gigpo_lightning.environments.webshop import Catalogue
from tests.environments.webshop.official import write


@pytest.fixture(scope="session")
def thousand(shared_data: Path) -> Catalogue:
    """The official thousand products, or a skipped test."""
    folder = shared_data / "webshop"
    return Catalogue.load(folder / "items_shuffle_1000.json", folder / "items_ins_v2_1000.json")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Four products by hand."""
    return Catalogue.load(**write(tmp_path_factory.mktemp("shop")))
