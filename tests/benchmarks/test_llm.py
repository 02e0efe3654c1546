"""The published runs of `make train-llm`, computed again from their games; and a run that is stopped and goes on."""

import csv
import gzip
import importlib
import io
import json
import os
import signal
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from gigpo_lightning.confidence import paired_bootstrap
from tests.scripts import loaded

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "llm"
FILES = {"results.csv": "games.csv.gz", "comparison.csv": "comparison_games.csv.gz"}
PUBLISHED = [name for name in FILES if (FOLDER / name).exists()]


@pytest.fixture
def llm_results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("llm_results")


@pytest.fixture
def curve(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("curve")


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(FOLDER)
    with loaded(FOLDER / "train.py") as module:
        yield module


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


def test_what_a_run_did_is_written_and_read_as_it_was(llm_results: ModuleType, tmp_path: Path):
    runs = tmp_path / "runs"
    write_run(runs, "gigpo", 0, start=[0, 0, 1, 0], end=[1, 1, 1, 0])
    write_run(runs, "grpo", 0, start=[0, 0, 1, 0], end=[0, 1, 1, 0])
    found = llm_results.read_runs(runs)
    assert [(run.method, run.success_start, run.success_end) for run in found] == [
        ("gigpo", 0.25, 0.75),
        ("grpo", 0.25, 0.5),
    ]
    assert (found[0].minutes, found[0].peak_gib) == (3.0, 5.5)  # 60 s of imitation, 2 × 60 s of training
    llm_results.main([str(runs), "--output", str(tmp_path)])
    assert [row["method"] for row in read(tmp_path / "results.csv")] == ["gigpo"]
    assert [row["method"] for row in read(tmp_path / "comparison.csv")] == ["gigpo", "grpo"]
    again = llm_results.read_collected(tmp_path, "comparison.csv", "comparison_games.csv.gz")
    assert [llm_results.row_of(run) for run in again] == [llm_results.row_of(run) for run in found]


def test_the_curve_of_a_run_that_went_on_is_drawn_once(llm_results: ModuleType, curve: ModuleType, tmp_path: Path):
    runs, published = tmp_path / "runs", tmp_path / "published"
    published.mkdir()
    write_run(runs, "gigpo", 0, start=[0, 0, 1, 0], end=[1, 1, 1, 0])
    for number, (first, success) in enumerate(((1, [0.25, 0.5]), (2, [0.75, 1.0]))):  # the second iteration, again
        with SummaryWriter(runs / "gigpo_0" / "lightning_logs" / f"version_{number}") as writer:
            for step, value in enumerate(success, first):
                writer.add_scalar("rollout/success_rate", value, step)
    llm_results.main([str(runs), "--output", str(published)])
    for _ in range(2):
        curve.main([str(runs), "--output", str(published)])
        rows = read(published / "curves.csv")
        assert [(row["iteration"], row["success"]) for row in rows] == [("0", "0.25"), ("1", "0.75"), ("2", "1.0")]
    assert "</svg>" in (published / "curve.svg").read_text()


def test_methods_start_from_one_imitation_and_are_compared_seed_by_seed(
    train: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    wins = {"gigpo": ([1, 1, 1, 0], [1, 1, 0, 1]), "grpo": ([0, 1, 0, 0], [0, 1, 0, 0])}
    for method, seeds in wins.items():
        for seed, end in enumerate(seeds):
            write_run(tmp_path, method, seed, start=[0, 0, 0, 0], end=end)
    begun: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(train, "imitate", lambda folder, seed: begun.append((folder.name, [str(seed)])))
    monkeypatch.setattr(train, "learn", lambda folder, name, configs, words: begun.append((folder.name, words)))
    with caplog.at_level("INFO", logger="train-llm"):
        train.main(
            ["--method", "gigpo", "grpo", "--seed", "0", "1", "--runs", str(tmp_path), "--trainer.max_epochs", "3"]
        )
    names = ["imitation_0", "gigpo_0", "grpo_0", "imitation_1", "gigpo_1", "grpo_1"]
    assert [name for name, _ in begun] == names
    for name, words in begun:
        if not name.startswith("imitation"):
            start = str(tmp_path / f"imitation_{name[-1]}" / "policy")
            model = ["--model.init_args.policy.init_args.model", start]
            assert words == [*model, "--seed_everything", name[-1], "--trainer.max_epochs", "3"]
    said = [record.getMessage() for record in caplog.records]
    assert said[4:8] == said[:4], "each is said when it has ended, and all at the end"
    assert [line.split(" [")[0] for line in said[8:]] == [
        "gigpo beyond grpo, seed 0: +0.500",
        "gigpo beyond grpo, seed 1: +0.500",
        "gigpo beyond grpo, 2 seeds: +0.500",
    ]


def test_one_method_is_compared_with_none(llm_results: ModuleType, tmp_path: Path):
    write_run(tmp_path, "gigpo", 0, start=[0, 1], end=[1, 1])
    write_run(tmp_path, "grpo", 1, start=[0, 1], end=[1, 1])
    runs = llm_results.read_runs(tmp_path)
    assert llm_results.compared(runs) == []
    assert llm_results.compared(runs[1:]) == []


def test_runs_of_other_games_are_not_compared(llm_results: ModuleType, tmp_path: Path):
    write_run(tmp_path, "gigpo", 0, start=[0, 1], end=[1, 1])
    write_run(tmp_path, "grpo", 0, start=[0, 1, 1], end=[1, 1, 1])
    with pytest.raises(ValueError, match="same held-out games; grpo_0 played others"):
        llm_results.compared(llm_results.read_runs(tmp_path))


def test_a_run_that_has_not_ended_is_left_out(llm_results: ModuleType, tmp_path: Path):
    write_run(tmp_path, "gigpo", 0, start=[0, 1], end=[1, 1], exit_code=143)
    assert llm_results.read_runs(tmp_path) == []


def test_a_part_is_done_once_and_a_stopped_one_again(train: ModuleType, tmp_path: Path):
    fails = [sys.executable, "-c", "raise SystemExit(3)"]
    with pytest.raises(SystemExit) as end:
        train.part(tmp_path, "imitation", fails)
    assert end.value.code == 3
    train.part(tmp_path, "imitation", [sys.executable, "-c", "pass"])
    train.part(tmp_path, "imitation", fails)  # not carried out
    lines = [json.loads(line) for line in (tmp_path / "parts.jsonl").read_text().splitlines()]
    assert [(line["part"], line["exit_code"]) for line in lines] == [("imitation", 3), ("imitation", 0)]


@pytest.mark.slow
def test_a_silent_part_is_told_of_and_its_lines_are_passed_on(
    train: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    monkeypatch.setattr(train, "_EVERY", 0.1)
    monkeypatch.setattr(train, "_SILENT", 0.3)
    script = "import sys, time; print('begun', file=sys.stderr, flush=True); time.sleep(1.5); sys.exit(5)"
    with caplog.at_level("INFO", logger="train-llm"):
        code, most = train.watched("imitation", [sys.executable, "-c", script])
    assert code == 5
    assert most > 0
    assert "begun" in capfd.readouterr().err
    assert any(record.getMessage().startswith("imitation: ") for record in caplog.records)


@pytest.mark.slow
def test_a_signal_ends_the_part_and_is_written_down(train: ModuleType, tmp_path: Path) -> None:
    tells = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    tells.start()
    with pytest.raises(SystemExit):
        train.part(tmp_path, "imitation", [sys.executable, "-c", "import time; time.sleep(60)"])
    (line,) = map(json.loads, (tmp_path / "parts.jsonl").read_text().splitlines())
    assert line["exit_code"] == -signal.SIGTERM
    assert line["seconds"] < 30


def write_run(folder: Path, method: str, seed: int, *, start: list[int], end: list[int], exit_code: int = 0) -> None:
    """The folders of a run that was stopped once."""
    imitation, training = folder / f"imitation_{seed}", folder / f"{method}_{seed}"
    parts = {imitation: [("imitation", 60.0, 3.0, 0)]}
    parts[training] = [(method, 60.0, 5.5, 143), (method, 60.0, 5.0, exit_code)]
    for home, lines in parts.items():
        home.mkdir(parents=True, exist_ok=True)
        names = ("part", "seconds", "peak_gib", "exit_code")
        text = "".join(json.dumps(dict(zip(names, line, strict=True))) + "\n" for line in lines)
        (home / "parts.jsonl").write_text(text)
    for number, (policy_version, wins) in enumerate(((0, start), (9, end))):
        version = training / "lightning_logs" / f"version_{number}"
        version.mkdir(parents=True)
        episodes = [
            {
                "split": "valid_unseen",
                "policy_version": policy_version,
                "task_id": f"game {game}",
                "repeat": 0,
                "success": bool(won),
                "steps": 4,
            }
            for game, won in enumerate(wins)
        ]
        (version / "evaluations.jsonl").write_text("".join(json.dumps(each) + "\n" for each in episodes))
