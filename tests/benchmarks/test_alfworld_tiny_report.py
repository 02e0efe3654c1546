"""What is said of the comparison's runs, on runs whose outcome is known and on those that are published."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.algorithm.tables import table_of, valid
from tests.benchmarks.runs import FOLDER, script


def test_a_difference_is_paired_by_seed_and_game(runs: Path, tmp_path: Path):
    collect, report = script("collect"), script("report")
    collect.write(collect.read_runs(runs), tmp_path)
    found = report.outcomes(tmp_path)
    ((ours, theirs),) = report.comparisons(found)[report.CHOSEN]
    chosen = report.difference([(found[ours], found[theirs])])
    assert chosen["auc"] == pytest.approx((0.5, 0.5, 0.5))
    mean, low, high = chosen["end"]  # game 2 of 4, of both seeds: games alone make the interval
    assert (mean, low, high) == pytest.approx((0.25, 0.0, 0.75))


def test_the_report_draws_its_figures(runs: Path, tmp_path: Path):
    collect, report = script("collect"), script("report")
    collect.write(collect.read_runs(runs), tmp_path)
    report.main(["--folder", str(tmp_path)])
    assert {path.name for path in tmp_path.glob("*.svg")} == {"chosen.svg", "curves.svg", "groups.svg", "time.svg"}
    assert "| the chosen GiGPO - the chosen GRPO " in (tmp_path / "tables.md").read_text()


def test_an_estimator_without_noise_is_worth_more_than_one_with():
    signal = script("gradient_signal")
    rng = np.random.default_rng(0)
    truth = np.zeros((1, 50), dtype=np.float32)
    truth[0, 0] = 1.0
    noise = rng.normal(size=(2, 400, 50)).astype(np.float32)
    gradients = np.stack([truth + 2 * noise[0], truth + noise[1], -truth + noise[1]])
    measured = signal.ratios(gradients, ["GRPO", signal.SUCCESS, "the wrong way"])
    np.testing.assert_allclose(measured[:, 0], [1.0, 2.0, -2.0], atol=0.4)
    np.testing.assert_allclose(measured[:, 2], [1.0, 2.0, -2.0], atol=0.7)  # noise counts in every coordinate alike
    assert 0.0 == measured[0, 1] < measured[1, 1] < 0.4


def test_every_estimator_is_measured_that_the_episodes_say_enough_for(caplog: pytest.LogCaptureFixture):
    signal = script("gradient_signal")
    table = table_of((0, valid("abc", [0, 0, 8])), (0, valid("aba", [0, 0, 0])))
    assert {"GRPO", signal.SUCCESS, "HGPO", "G2PO", "ReinforcePlusPlus"} <= signal.all_advantages(table).keys()
    assert "GRAFT is left out: column next_anchor_key must say where every step led" in caplog.text


def test_the_published_rows_follow_from_the_published_games():
    report = script("report")
    rows = report.read_rows(FOLDER / "results.csv")
    won: dict[tuple[str, str, int], list[bool]] = {}
    for game in report.read_rows(FOLDER / "games.csv.gz"):
        key = (game["run"], game["split"], int(game["iterations"]))
        won.setdefault(key, []).append(game["success"] == "True")
    for row in rows:
        end = int(row["iterations"])
        places = {"start": ("valid_unseen", 0), "end": ("valid_unseen", end), "exam": ("exam", end)}
        for name, place in places.items():
            if row[f"success_{name}"]:
                mean = np.mean(won[row["run"], *place])
                assert float(row[f"success_{name}"]) == pytest.approx(mean, abs=1e-4), (row["run"], name)


@pytest.mark.slow
def test_the_published_tables_follow_from_the_published_games(tmp_path: Path):
    report = script("report")
    for path in FOLDER.glob("*.csv*"):
        shutil.copy(path, tmp_path)
    report.write_tables(report.tables(report.outcomes(tmp_path)), tmp_path)
    assert (tmp_path / "tables.md").read_text() == (FOLDER / "tables.md").read_text()


def test_cells_are_compared_that_differ_in_one_thing():
    report = script("report")
    outcomes = report.Outcomes(held_out={}, exam=None, auc=np.zeros(1), seeds=(0,), selected=False, runs=("0",))
    cells = {}
    for method in ("GRPO", "GiGPO"):
        for std, statistics in (("False", "trajectory"), ("True", "trajectory"), ("False", "step")):
            shared = {"anchor": "state", "omega": "1.0", "episode_weight": "1.0", "discount": ".95"}
            cell = report.Cell(method=method, statistics=statistics, std=std, learning_rate="4e-4", **shared)
            cells[cell] = replace(outcomes, selected=method == "GRPO")
    pairs = [
        [tuple((each.method, each.std, each.statistics) for each in pair) for pair in compared]
        for compared in report.comparisons(cells).values()
    ]
    plain, std, step = ("False", "trajectory"), ("True", "trajectory"), ("False", "step")
    methods = [(("GiGPO", *setting), ("GRPO", *setting)) for setting in (plain, std, step)]
    stds = [((method, *std), (method, *plain)) for method in ("GRPO", "GiGPO")]
    statistics = [((method, *step), (method, *plain)) for method in ("GRPO", "GiGPO")]
    assert pairs == [*([pair] for pair in (*methods, *stds, *statistics)), methods, stds, statistics]


def test_a_mean_leaves_out_what_has_fewer_seeds():
    report = script("report")

    def outcomes(*seeds: int) -> Any:
        return report.Outcomes(held_out={}, exam=None, auc=np.zeros(1), seeds=seeds, selected=False, runs=())

    level = {"anchor": "observation", "omega": "1.0", "episode_weight": "1.0", "discount": "0.95"}
    plain = report.Cell(method="GiGPO", statistics="trajectory", std="False", learning_rate="0.0004", **level)
    step, state = replace(plain, statistics="step"), replace(plain, anchor="state")
    begun = replace(state, statistics="step")
    cells = dict.fromkeys((plain, step, state), outcomes(0, 1, 2)) | {begun: outcomes(0)}
    name = "step statistics - trajectory statistics"
    assert not any(each.startswith("mean") for each in report.comparisons(cells))
    cells[begun] = outcomes(0, 1, 2)
    assert report.comparisons(cells)[f"mean of 2: {name}"] == [(step, plain), (begun, state)]


def test_every_factor_is_compared_with_its_first_value():
    report = script("report")
    outcomes = report.Outcomes(held_out={}, exam=None, auc=np.zeros(1), seeds=(0,), selected=False, runs=("0",))
    common = {"statistics": "trajectory", "std": "False", "learning_rate": "0.0004"}
    level = {"anchor": "observation", "omega": "1.0", "episode_weight": "1.0", "discount": "0.95"}
    none = {"anchor": "none", "omega": "0.0", "episode_weight": "1.0", "discount": "1.0"}
    grpo, rloo = (report.Cell(method=method, **common, **none) for method in ("GRPO", "RLOO"))
    gigpo = report.Cell(method="GiGPO", **common, **level)
    slow = replace(grpo, learning_rate="0.0002")
    state, heavy = replace(gigpo, anchor="state"), replace(gigpo, omega="1.4")
    alone = replace(gigpo, episode_weight="0.0")
    tuned = replace(state, omega="4.0", discount="0.8")
    cells = dict.fromkeys((grpo, slow, rloo, gigpo, state, heavy, alone, tuned), outcomes)
    cells |= dict.fromkeys((slow, tuned), replace(outcomes, selected=True))
    compared = report.comparisons(cells)
    first = "trajectory, no std"
    expected = {f"{cell.label()} - GRPO": (cell, grpo) for cell in (rloo, gigpo, state, heavy, alone, tuned)}
    expected |= {
        f"GiGPO, {first}, state anchors, ω 1.0, γ 0.95, lr 0.0004 - observation anchors": (state, gigpo),
        f"GiGPO, {first}, observation anchors, ω 1.4, γ 0.95, lr 0.0004 - ω 1.0": (heavy, gigpo),
        f"GiGPO, {first}, observation anchors, ω 1.0, γ 0.95, no A_E, lr 0.0004 - A_E times 1.0": (alone, gigpo),
        f"GRPO, {first}, lr 0.0002 - lr 0.0004": (slow, grpo),
        f"the chosen GiGPO - GRPO, {first}, lr 0.0002": (tuned, slow),
        f"the chosen GiGPO - GRPO, {first}, lr 0.0004": (tuned, grpo),
        report.CHOSEN: (tuned, slow),
    }
    assert compared == {name: [pair] for name, pair in expected.items()}


def test_a_mean_of_differences_is_over_the_seeds_that_all_have():
    report = script("report")

    def outcomes(seeds: tuple[int, ...], won: list[list[float]]) -> Any:
        games = np.array(won)
        return report.Outcomes(
            held_out={0: 0 * games, 4: games}, exam=None, auc=games[:, 0], seeds=seeds, selected=False, runs=()
        )

    first = outcomes((0, 1), [[1.0, 1.0], [1.0, 0.0]]), outcomes((0, 1), [[0.0, 1.0], [0.0, 0.0]])
    second = outcomes((1, 2), [[1.0, 1.0], [0.0, 0.0]]), outcomes((1, 2), [[1.0, 1.0], [1.0, 1.0]])
    measured = report.difference([first, second])  # of seed 1: (1, 0) and (0, 0)
    assert measured["end"] == (0.25, 0.0, 0.5)
    assert measured["exam"] is None
    for name in ("auc", "auc t"):  # one seed says nothing of others
        assert measured[name][0] == 0.5
        assert np.isnan(measured[name][1:]).all()


CLAIMED = (
    ("README.md", "the chosen GiGPO - the chosen GRPO|mean of 4: GiGPO, observation"),
    ("CHANGELOG.md", "the chosen GiGPO - the chosen GRPO|mean of 4: GiGPO, observation"),
    (
        "benchmarks/alfworld_tiny/README.md",
        "the chosen GiGPO - |mean of 4: GiGPO, |(GiGPO|RLOO), .* - (GRPO|ω 1.0|A_E times 1.0|observation anchors)$",
    ),
)


@pytest.mark.parametrize(("document", "which"), CLAIMED, ids=[document for document, _ in CLAIMED])
def test_what_is_claimed_is_what_the_published_tables_say(document: str, which: str):
    text = (FOLDER.parents[1] / document).read_text().replace("\n", " ").replace("*", "")
    rows = [[word.strip() for word in line.split("|")] for line in (FOLDER / "tables.md").read_text().splitlines()]
    exams = {row[1]: row[4].replace("0.", ".") for row in rows if len(row) == 8 and re.match(which, row[1])}
    assert len(exams) >= 2
    assert {name: exam for name, exam in exams.items() if exam not in text} == {}
