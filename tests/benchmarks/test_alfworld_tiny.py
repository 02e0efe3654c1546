"""What is collected of the comparison's runs, on runs whose outcome is known."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gigpo_lightning.cli import build_cli
from gigpo_lightning.sweep.composition import compose
from tests.benchmarks.runs import FOLDER, script, write_version

PRESETS = sorted((FOLDER / "credit").glob("*.yaml"), key=lambda path: path.name)


@pytest.mark.slow
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


def test_the_sweeps_of_make_compare_are_all_runs_of_the_comparison():
    def runs_of(name: str) -> set[tuple[str, str]]:
        swept = compose(name, [FOLDER], [], multirun=True)
        return {(swept.folder.name, run.name) for run in swept.runs}

    (named,) = re.findall(r"^SWEEPS \?= (.+)$", (FOLDER.parents[1] / "Makefile").read_text(), re.MULTILINE)
    first = set.union(*map(runs_of, named.split()))
    assert len(first) == 50
    assert len(runs_of("wide") - first) == 45


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


def test_the_start_is_examined_once_and_written_down(tmp_path: Path):
    collect, exam, report = script("collect"), script("exam"), script("report")
    plays = PLAYS.replace('sys.argv[sys.argv.index("--ckpt_path") + 1]', '"grpo"')
    for command in (plays, "raise SystemExit(3)"):  # that it has been played is enough
        exam.examine_start(tmp_path, [sys.executable, "-c", command])
    (episode,) = map(json.loads, (tmp_path / "start.jsonl").read_text().splitlines())
    configs = [episode["words"][place + 1] for place, word in enumerate(episode["words"]) if word == "--config"]
    assert [Path(config).name for config in configs] == ["experiment.yaml", "tuned.yaml", "exam.yaml"]
    assert "--ckpt_path" not in episode["words"]
    collect.write_start(tmp_path, tmp_path)
    (row,) = collect.read_rows(tmp_path / "start.csv.gz")
    assert row == {"task_id": "fresh", "kind": "look", "repeat": "0", "success": "True", "steps": "7"}
    report.write_tables([], tmp_path)
    assert "wins 1.000 [1.000, 1.000] of the fresh games" in (tmp_path / "tables.md").read_text()


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


def test_what_a_sweep_has_written_is_not_taken_for_results(runs: Path, tmp_path: Path):
    collect = script("collect")
    (tmp_path / "results.csv").write_text("credit,state\ngrpo,finished\n")
    with pytest.raises(ValueError, match=r"--output must be empty or collect.py's, got .*sweep"):
        collect.main([str(runs), "--output", str(tmp_path)])
    collect.main([str(runs), "--output", str(tmp_path / "of_its_own")])
    assert (tmp_path / "of_its_own" / "games.csv.gz").exists()


@pytest.mark.slow
def test_the_published_files_are_read_as_they_were_written(tmp_path: Path):
    collect = script("collect")
    collect.write(collect.read_collected(FOLDER), tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (FOLDER / path.name).read_bytes(), path.name
