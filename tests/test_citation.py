"""How to cite: the file that GitHub and Zenodo read."""

import tomllib

import yaml

from tests.documents import ROOT

CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_it_has_what_the_format_asks_for() -> None:
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()


def test_version_and_licence_are_the_project_s() -> None:
    assert (CITATION["version"], CITATION["license"]) == (PROJECT["version"], PROJECT["license"])
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


def test_the_paper_is_cited_with_its_authors() -> None:
    (paper,) = CITATION["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Feng", "Xue", "Liu", "An"]
    assert {"type": "doi", "value": "10.48550/arXiv.2505.10978"} in paper["identifiers"]
