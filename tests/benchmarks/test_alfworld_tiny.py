"""What is collected of the comparison's runs and what is said of them, on runs whose outcome is known."""

import csv
import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from torch.utils.tensorboard import SummaryWriter

from gigpo_lightning.cli import build_cli

FOLDER = Path(__file__).parents[2] / "benchmarks" / "alfworld_tiny"


def script(name: str) -> ModuleType:
    """A script of the comparison as a module; they lie in no package, and import each other as scripts do."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


def write_version(
    folder: Path, method: str, seed: int, epochs: range, wins: dict[int, list[bool]], planned: int = 4
) -> None:
    """One version of a run: it trained the epochs, and its evaluations won these games.

    Args:
        folder: Of the version.
        method: Name of the estimator.
        seed: Of the run.
        epochs: That this version trained.
        wins: By the number of iterations before it, whether each game of an evaluation was won.
        planned: Iterations of the whole run.
    """
    (folder / "trajectories").mkdir(parents=True)
    options = {"scale_by_std": True, "episode_statistics": "step"}
    options |= {"step_advantage_weight": 0.5, "discount": 0.9} if method == "GiGPO" else {}
    config = {
        "seed_everything": seed,
        "trainer": {"max_epochs": planned},
        "model": {
            "init_args": {
                "credit": {"class_path": f"gigpo_lightning.algorithm.{method}", "init_args": options},
                "optimizer": {"init_args": {"lr": 1e-3}},
            }
        },
        "data": {
            "init_args": {
                "tasks_per_epoch": 2,
                "group_size": 3,
                "environment": {"init_args": {"anchor": "observation"}},
            }
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with (folder / "evaluations.jsonl").open("w") as file:
        for done, games in wins.items():
            for number, won in enumerate(games):
                line = {"split": "valid_unseen", "epoch": max(0, done - 1), "policy_version": 2 * done}
                line |= {"task_id": f"game {number}", "kind": "look", "repeat": 0, "success": won, "steps": 7}
                file.write(json.dumps(line) + "\n")
    writer = SummaryWriter(str(folder))
    for epoch in epochs:
        for name in ("credit", "update", "rollout", "iteration"):
            writer.add_scalar(f"time/{name}", 1.0, 2 * (epoch + 1))
        writer.add_scalar("sync/seconds", 1.0, 2 * (epoch + 1))
        writer.add_scalar("rollout/success_rate", (epoch + seed) / 10 + (method == "GiGPO") / 2, 2 * (epoch + 1))
        table = pa.table({"step_group_id": np.repeat([0, 1, 2], [1, 3, 6])})
        pq.write_table(table, folder / "trajectories" / f"epoch_{epoch}.parquet")
    writer.close()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two seeds of two methods; seed 0 of GiGPO was stopped after three iterations, went back to two, and went on."""
    folder = tmp_path / "runs"
    start, grpo, gigpo = [True, False, False, False], [True, True, False, False], [True, True, True, False]
    for seed in (0, 1):
        home = folder / "grpo" / f"seed_{seed}" / "lightning_logs"
        write_version(home / "version_0", "GRPO", seed, range(4), {0: start, 4: grpo})
    home = folder / "gigpo" / "seed_0" / "lightning_logs"
    write_version(home / "version_0", "GiGPO", 0, range(3), {0: start})
    write_version(home / "version_1", "GiGPO", 0, range(2, 4), {4: gigpo})
    write_version(
        folder / "gigpo" / "seed_1" / "lightning_logs" / "version_0", "GiGPO", 1, range(4), {0: start, 4: gigpo}
    )
    return folder


PRESETS = sorted((FOLDER / "credit").glob("*.yaml"), key=lambda path: path.name)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_cell_changes_its_credit_and_its_anchors_alone(preset: Path, capsys: pytest.CaptureFixture[str]):
    printed = []
    for files in ((), (preset,)):
        configs = [word for file in (FOLDER / "experiment.yaml", *files) for word in ("--config", str(file))]
        with pytest.raises(SystemExit) as end:
            build_cli(["fit", *configs, "--print_config"])
        assert not end.value.code
        printed.append(yaml.safe_load(capsys.readouterr().out))
    shared, cell = printed
    wanted = yaml.safe_load(preset.read_text())["model"]["init_args"]["credit"]
    assert wanted["init_args"].items() <= cell["model"]["init_args"].pop("credit")["init_args"].items()
    shared["model"]["init_args"].pop("credit")
    for config in printed:
        config["data"]["init_args"]["environment"]["init_args"].pop("anchor")
    assert cell == shared


def test_a_row_of_the_results_says_what_the_run_was_and_did(runs: Path, tmp_path: Path):
    collect = script("collect")
    collect.write(collect.read_runs(runs), tmp_path)
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("GRPO", "0"),
        ("GRPO", "1"),
        ("GiGPO", "0"),
        ("GiGPO", "1"),
    ]
    assert rows[2] == {
        "run": "2",
        "method": "GiGPO",
        "statistics": "step",
        "std": "True",
        "anchor": "observation",
        "omega": "0.5",
        "episode_weight": "1.0",
        "discount": "0.9",
        "learning_rate": "0.001",
        "seed": "0",
        "iterations": "4",
        "episodes": "24",
        "updates": "8",
        "games": "4",
        "success_start": "0.25",
        "success_end": "0.75",
        "exam_games": "0",
        "success_exam": "",
        "auc": "0.65",  # .5 .6 .7 .8
        "late_training_success": "0.8",
        "selected_on_train": "True",
    }


def test_a_run_that_went_on_has_each_iteration_once(runs: Path):
    run = next(run for run in script("collect").read_runs(runs) if (run.cell.method, run.seed) == ("GiGPO", 0))
    assert run.curves["success"] == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert list(run.evaluations) == [0, 4]


def test_a_line_that_a_killed_run_did_not_finish_is_left_out(runs: Path):
    record = runs / "gigpo" / "seed_0" / "lightning_logs" / "version_0" / "evaluations.jsonl"
    record.write_text(record.read_text() + '{"split": "valid_')
    assert len(script("collect").read_runs(runs)) == 4


def test_a_run_that_has_not_ended_is_left_out(runs: Path):
    home = runs / "late" / "lightning_logs" / "version_0"
    write_version(home, "GRPO", 2, range(2), {0: [False]})
    assert len(script("collect").read_runs(runs)) == 4


def test_a_run_that_makes_no_evaluation_has_only_its_training(tmp_path: Path):
    collect = script("collect")
    write_version(tmp_path / "grpo" / "lightning_logs" / "version_0", "GRPO", 0, range(4), {})
    collect.write(collect.read_runs(tmp_path), tmp_path)
    (row,) = csv.DictReader((tmp_path / "results.csv").open())
    assert (row["auc"], row["games"], row["success_start"], row["success_end"]) == ("0.15", "0", "", "")


def test_the_cell_of_a_method_is_chosen_by_training_games_alone(tmp_path: Path):
    collect = script("collect")
    # Rate, seed, and how much it learns on its training games. The second learns more on these, and less on those held
    # out; the third is better still, but has met the tasks of one seed only.
    for rate, seed, gain in ((0.001, 0, 0), (0.001, 1, 0), (0.002, 0, 3), (0.002, 1, 3), (0.003, 1, 9)):
        wins = {0: [False, False], 4: [rate == 0.001, False]}
        folder = tmp_path / f"{rate}_{seed}" / "lightning_logs" / "version_0"
        write_version(folder, "GRPO", seed + gain, range(4), wins)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["seed_everything"] = seed
        config["model"]["init_args"]["optimizer"]["init_args"]["lr"] = rate
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert [cell.learning_rate for cell in collect.selected(collect.read_runs(tmp_path))] == [0.002]


def test_shares_of_anchor_groups_count_steps(runs: Path):
    run = script("collect").read_runs(runs)[0]
    assert run.group_shares[0] == {"1": 0.1, "2-5": 0.3, "6-10": 0.6, "11-50": 0.0, "over_50": 0.0}


# Stands for gigpo: what it is asked for, it writes down as the game that it played.
PLAYS = """
import json, pathlib, sys
home = pathlib.Path(sys.argv[sys.argv.index("--trainer.default_root_dir") + 1], "lightning_logs", "version_0")
home.mkdir(parents=True)
line = {"split": "valid_unseen", "task_id": "fresh", "kind": "look", "repeat": 0, "steps": 7}
line |= {"success": "grpo" in sys.argv[sys.argv.index("--ckpt_path") + 1], "words": sys.argv[1:]}
(home / "evaluations.jsonl").write_text(json.dumps(line) + "\\n")
"""


def test_an_exam_is_taken_once_by_each_run_that_has_ended_and_counts_for_itself(runs: Path, tmp_path: Path):
    collect, exam, report = script("collect"), script("exam"), script("report")
    for folder in ("late", ".being-examined"):
        write_version(runs / folder / "lightning_logs" / "version_0", "GRPO", 2, range(2), {0: [False]})
    for version in runs.rglob("version_*"):
        (version / "checkpoints").mkdir()
        (version / "checkpoints" / "last.ckpt").touch()
    for home in exam.left(runs):
        exam.examine(home, [sys.executable, "-c", PLAYS])
    assert not exam.left(runs)
    assert {path.parent for path in runs.rglob("exam.jsonl")} == set(collect.homes(runs)) - {runs / "late"}
    assert not list(runs.rglob(".exam-*"))
    words = json.loads((runs / "gigpo" / "seed_0" / "exam.jsonl").read_text())["words"]
    assert words[:3] == ["validate", "--config", str(runs / "gigpo" / "seed_0" / "config.yaml")]
    newest = runs / "gigpo" / "seed_0" / "lightning_logs" / "version_1" / "checkpoints" / "last.ckpt"
    assert words[words.index("--ckpt_path") + 1] == str(newest)
    collect.write(collect.read_runs(runs), tmp_path)
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(row["success_end"], row["success_exam"]) for row in rows] == [("0.5", "1.0")] * 2 + [("0.75", "0.0")] * 2
    found = report.outcomes(tmp_path)
    ((ours, theirs),) = report.comparisons(found)[report.CHOSEN]
    assert report.difference([(found[ours], found[theirs])])["exam"] == (-1.0, -1.0, -1.0)


def test_only_runs_of_the_named_presets_are_examined(tmp_path: Path):
    for preset in ("tuned", "tuned-discount-0.6", "grpo"):
        folder = tmp_path / f"credit={preset},seed_everything=0" / "lightning_logs" / "version_0"
        write_version(folder, "GRPO", 0, range(4), {0: [False], 4: [True]})
    left = script("exam").left(tmp_path, ["tuned", "grpo"])
    assert {home.name for home in left} == {"credit=tuned,seed_everything=0", "credit=grpo,seed_everything=0"}


def test_an_exam_that_fails_leaves_nothing(runs: Path):
    exam, home = script("exam"), runs / "grpo" / "seed_0"
    (home / "lightning_logs" / "version_0" / "checkpoints").mkdir()
    (home / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(subprocess.CalledProcessError):
        exam.examine(home, [sys.executable, "-c", "raise SystemExit(3)"])
    assert [path.name for path in home.iterdir()] == ["lightning_logs"]


def test_the_same_runs_give_the_same_files(runs: Path, tmp_path: Path):
    collect = script("collect")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        collect.write(collect.read_runs(runs), tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_runs_that_are_elsewhere_now_stay_in_the_files(runs: Path, tmp_path: Path):
    collect, files = script("collect"), tmp_path / "files"
    files.mkdir()
    examined = {"split": "valid_unseen", "task_id": "fresh", "kind": "look", "repeat": 0, "success": True, "steps": 7}
    (runs / "grpo" / "seed_0" / "exam.jsonl").write_text(json.dumps(examined) + "\n")
    collect.main([str(runs), "--output", str(files)])
    before = {path: path.read_bytes() for path in files.iterdir()}
    for won, of_gigpo_1 in ([True, True, True, True], "1.0"), ([True, True, True, False], "0.75"):
        # Another machine has one of the runs alone, played anew.
        elsewhere = tmp_path / of_gigpo_1
        folder = elsewhere / "lightning_logs" / "version_0"
        write_version(folder, "GiGPO", 1, range(4), {0: [True, False, False, False], 4: won})
        collect.main([str(elsewhere), "--output", str(files)])
        rows = list(csv.DictReader((files / "results.csv").open()))
        assert [(row["method"], row["seed"], row["success_end"], row["success_exam"]) for row in rows] == [
            ("GRPO", "0", "0.5", "1.0"),
            ("GRPO", "1", "0.5", ""),
            ("GiGPO", "0", "0.75", ""),
            ("GiGPO", "1", of_gigpo_1, ""),
        ]
    assert {path: path.read_bytes() for path in files.iterdir()} == before  # the second was as it had been


def test_the_published_files_are_read_as_they_were_written(tmp_path: Path):
    collect = script("collect")
    collect.write(collect.read_collected(FOLDER), tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (FOLDER / path.name).read_bytes(), path.name


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


def test_the_published_tables_follow_from_the_published_games(tmp_path: Path):
    report = script("report")
    report.write_tables(report.outcomes(FOLDER), tmp_path / "tables.md")
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


@pytest.mark.parametrize("document", ["README.md", "CHANGELOG.md", "benchmarks/alfworld_tiny/README.md"])
def test_what_is_claimed_is_what_the_published_games_say(document: str):
    report = script("report")
    found = report.outcomes(FOLDER)
    ((ours, theirs),) = report.comparisons(found)[report.CHOSEN]
    measured = report.difference([(found[ours], found[theirs])])["exam"]
    mean, low, high = (f"{each:+.3f}".replace("0.", ".") for each in measured)
    assert f"{mean} [{low}, {high}]" in (FOLDER.parents[1] / document).read_text().replace("\n", " ")
