"""The published runs of the real language model, computed again from their games."""

import csv
import gzip
import io
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from gigpo_lightning.confidence import paired_bootstrap

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "llm"
PAGE = (FOLDER.parents[1] / "docs" / "real_model.md").read_text()
FILES = {"results.csv": "games.csv.gz", "comparison.csv": "comparison_games.csv.gz"}
PUBLISHED = [name for name in FILES if (FOLDER / name).exists()]


def read(path: Path) -> list[dict[str, str]]:
    raw = path.read_bytes()
    return list(csv.DictReader(io.StringIO((gzip.decompress(raw) if path.suffix == ".gz" else raw).decode())))


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_number_follows_from_the_games(name: str):
    won: dict[tuple[str, str, str], dict[tuple[str, str], float]] = defaultdict(dict)
    games = read(FOLDER / FILES[name])
    for row in games:
        won[row["method"], row["seed"], row["when"]][row["task_id"], row["repeat"]] = float(row["success"] == "True")
    assert len(games) == sum(map(len, won.values())), "a game is there twice"
    rows = read(FOLDER / name)
    assert {key[:2] for key in won} == {(row["method"], row["seed"]) for row in rows}
    for row in rows:
        start, end = (won[row["method"], row["seed"], when] for when in ("start", "end"))
        assert start.keys() == end.keys()
        keys = sorted(start)
        assert int(row["games"]) == len(keys) >= 200
        assert float(row["success_start"]) == pytest.approx(sum(start.values()) / len(keys), abs=1e-4)
        assert float(row["success_end"]) == pytest.approx(sum(end.values()) / len(keys), abs=1e-4)
        _, low, high = paired_bootstrap([start[key] for key in keys], [end[key] for key in keys])
        assert [float(row["low"]), float(row["high"])] == pytest.approx([low, high], abs=1e-4)


def test_make_train_llm_learns_with_three_seeds_in_100_minutes_and_8_gib():
    rows = read(FOLDER / "results.csv")
    assert [(row["method"], row["seed"]) for row in rows] == [("gigpo", str(seed)) for seed in range(3)]
    assert min(float(row["low"]) for row in rows) > 0
    assert max(float(row["minutes"]) for row in rows) <= 100
    assert max(float(row["peak_gib"]) for row in rows) <= 8


@pytest.mark.parametrize("name", PUBLISHED)
def test_all_published_runs_played_the_same_games_once_each(name: str):
    panels = defaultdict(Counter)
    for row in read(FOLDER / FILES[name]):
        panels[row["method"], row["seed"], row["when"]][row["task_id"]] += 1
    first, *others = panels.values()
    assert set(first.values()) == {1}
    assert all(panel == first for panel in others)
