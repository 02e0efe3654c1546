"""The published runs of the real language model, computed again from their games."""

import csv
import gzip
import io
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

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


def test_the_page_has_the_table_of_the_runs():
    for row in read(FOLDER / "results.csv"):
        start, end, low, high = (float(row[name]) for name in ("success_start", "success_end", "low", "high"))
        said = told("GiGPO", row["seed"])
        assert said[:5] == pytest.approx([start, end, end - start, low, high], abs=6e-4)
        assert said[5:] == [round(float(row["minutes"])), round(float(row["peak_gib"]), 1)]


def test_the_page_has_the_table_of_the_comparison():
    won = defaultdict(dict)
    for row in read(FOLDER / "comparison_games.csv.gz"):
        won[row["method"], row["seed"], row["when"]][row["task_id"]] = float(row["success"] == "True")
    games = sorted(won["gigpo", "0", "end"])
    differences = []
    for seed in map(str, range(3)):
        keys = (("grpo", seed, "start"), ("grpo", seed, "end"), ("gigpo", seed, "end"))
        start, grpo, gigpo = ([won[key][game] for game in games] for key in keys)
        shares = [np.mean(start), np.mean(grpo), np.mean(gigpo)]
        assert told("GRPO", seed) == pytest.approx([*shares, *paired_bootstrap(grpo, gigpo)], abs=6e-4)
        differences.append(shares[2] - shares[1])
    over_seeds = ttest_1samp(differences, 0.0).confidence_interval()
    assert told("GRPO", "mean") == pytest.approx([np.mean(differences), *over_seeds], abs=6e-4)


def test_every_published_run_has_a_whole_curve():
    lengths = Counter((row["method"], row["seed"]) for row in read(FOLDER / "curves.csv"))
    assert lengths == {(row["method"], row["seed"]): 24 for row in read(FOLDER / "comparison.csv")}
    wins = [float(row["success"]) * 64 for row in read(FOLDER / "curves.csv")]
    assert wins == list(map(round, wins)), "an iteration has 64 episodes"


def told(table: str, row: str) -> list[float]:
    """The numbers in a row of the page's table of GiGPO's runs, or of that which has GRPO's too."""
    (rows,) = (
        each
        for each in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE)
        if each.startswith("| seed |") and ("GRPO" in each) == (table == "GRPO")
    )
    (line,) = (line for line in rows.splitlines() if line.startswith(f"| {row} |"))
    return [float(number) for number in re.findall(r"[+-]?\d*\.?\d+", line.removeprefix(f"| {row} |"))]
