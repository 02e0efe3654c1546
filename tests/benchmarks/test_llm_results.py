"""What is collected of the real model's runs, on runs whose outcome is known."""

import csv
import gzip
import importlib
import io
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from torch.utils.tensorboard import SummaryWriter

from tests.benchmarks.llm_runs import write_parts, write_run

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "llm"


@pytest.fixture
def llm_results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("llm_results")


@pytest.fixture
def curve(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("curve")


def read(path: Path) -> list[dict[str, str]]:
    raw = path.read_bytes()
    return list(csv.DictReader(io.StringIO((gzip.decompress(raw) if path.suffix == ".gz" else raw).decode())))


def test_what_a_run_did_is_written_and_read_as_it_was(llm_results: ModuleType, tmp_path: Path):
    write_run(tmp_path, "gigpo", 0, start=[0, 0, 1, 0], end=[1, 1, 1, 0])
    write_run(tmp_path, "grpo", 0, start=[0, 0, 1, 0], end=[0, 1, 1, 0])
    found = llm_results.read_runs(tmp_path)
    assert [(run.method, run.success_start, run.success_end) for run in found] == [
        ("gigpo", 0.25, 0.75),
        ("grpo", 0.25, 0.5),
    ]
    assert (found[0].minutes, found[0].peak_gib) == (3.0, 5.5)  # 60 s of imitation, 2 × 60 s of training
    llm_results.main([str(tmp_path)])
    assert [row["method"] for row in read(tmp_path / "results.csv")] == ["gigpo"]
    assert [row["method"] for row in read(tmp_path / "comparison.csv")] == ["gigpo", "grpo"]
    again = llm_results.read_collected(tmp_path, "comparison.csv", "comparison_games.csv.gz")
    assert [llm_results.row_of(run) for run in again] == [llm_results.row_of(run) for run in found]


def test_one_method_alone_is_no_comparison(llm_results: ModuleType, tmp_path: Path):
    write_run(tmp_path / "runs", "gigpo", 0, start=[0, 1], end=[1, 1])
    llm_results.main([str(tmp_path / "runs"), "--output", str(tmp_path / "published" / "here")])
    assert {path.name for path in (tmp_path / "published" / "here").iterdir()} == {"results.csv", "games.csv.gz"}
    assert not list((tmp_path / "runs").glob("*.csv"))


def test_a_run_takes_the_place_of_an_old_one_and_leaves_others(llm_results: ModuleType, tmp_path: Path):
    first, second, output = tmp_path / "first", tmp_path / "second", tmp_path / "published"
    write_run(first, "gigpo", 0, start=[0, 0], end=[0, 1])
    write_run(first, "gigpo", 1, start=[0, 0], end=[0, 1])
    write_run(second, "gigpo", 1, start=[0, 0], end=[1, 1])
    for runs in (first, second):
        llm_results.main([str(runs), "--output", str(output)])
    rows = {row["seed"]: row["success_end"] for row in read(output / "results.csv")}
    assert rows == {"0": "0.5", "1": "1.0"}


def test_a_run_that_was_removed_is_gone_from_its_folders_tables(llm_results: ModuleType, tmp_path: Path):
    for seed in (0, 1):
        write_run(tmp_path, "gigpo", seed, start=[0, 0], end=[0, 1])
    llm_results.main([str(tmp_path)])
    shutil.rmtree(tmp_path / "gigpo_0")
    llm_results.main([str(tmp_path)])
    assert [row["seed"] for row in read(tmp_path / "results.csv")] == ["1"]


def test_methods_are_compared_on_the_same_seeds_and_games(llm_results: ModuleType, tmp_path: Path):
    ends = {"gigpo": ([1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]), "grpo": ([0, 1, 0, 0], [1, 1, 0, 1])}
    for method, seeds in ends.items():
        for seed, end in enumerate(seeds):
            write_run(tmp_path, method, seed, start=[0, 0, 0, 0], end=end)
    lines = llm_results.compared(llm_results.read_runs(tmp_path))
    # Two seeds, differences .5 and .25: the standard error is .125, and Student's t of one degree of freedom 12.706.
    assert lines[-1] == "gigpo ahead of grpo, 2 seeds: +0.375 [-1.213, +1.963]"
    assert lines[:-1] == [
        "gigpo ahead of grpo, seed 0: +0.500 [+0.000, +1.000]",
        "gigpo ahead of grpo, seed 1: +0.250 [+0.000, +0.750]",
    ]


def test_one_method_is_compared_with_none(llm_results: ModuleType, tmp_path: Path):
    write_run(tmp_path, "gigpo", 0, start=[0, 1], end=[1, 1])
    write_run(tmp_path, "grpo", 1, start=[0, 1], end=[1, 1])
    runs = llm_results.read_runs(tmp_path)
    assert [run.method for run in runs] == ["gigpo", "grpo"]
    assert llm_results.compared(runs) == []
    assert llm_results.compared(runs[1:]) == []


def test_runs_of_other_games_are_not_compared(
    llm_results: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_run(tmp_path, "gigpo", 0, start=[0, 1], end=[1, 1])
    write_run(tmp_path, "grpo", 0, start=[0, 1, 1], end=[1, 1, 1])
    with pytest.raises(SystemExit):
        llm_results.main([str(tmp_path)])
    assert "the same held-out games; grpo_0 played others" in capsys.readouterr().err


def test_what_is_no_ended_run_is_left_out_with_its_reason(
    llm_results: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_run(tmp_path, "gigpo", 0, start=[0, 1], end=[1, 1], exit_code=143)
    write_run(tmp_path, "gigpo", 1, start=[0, 1], end=[1, 1])
    shutil.rmtree(tmp_path / "imitation_1")
    write_run(tmp_path, "gigpo", 2, start=[0, 1], end=[1, 1])
    shutil.rmtree(tmp_path / "gigpo_2" / "lightning_logs" / "version_1")
    for name in ("gigpo_2_old", "old_gigpo_2", "gigpo_2_1"):
        shutil.copytree(tmp_path / "gigpo_2", tmp_path / name)
    with caplog.at_level("INFO", logger="llm_results"):
        assert llm_results.read_runs(tmp_path) == []
    reasons = [record.getMessage() for record in caplog.records]
    assert len(reasons) == 3
    for reason, words in zip(reasons, ("has ended; it has not", "imitation_1, the imitation", "got 1"), strict=True):
        assert words in reason


def test_a_line_that_a_killed_process_left_is_passed_over(llm_results: ModuleType, tmp_path: Path):
    write_parts(tmp_path, ("gigpo", 60.0, 5.0, 0))
    record = tmp_path / "parts.jsonl"
    record.write_text('{"part": "gi\n' + record.read_text() + '{"par')
    assert [line["seconds"] for line in llm_results.parts_of(tmp_path)] == [60.0]
    assert llm_results.parts_of(tmp_path / "nowhere") == []


@pytest.mark.parametrize("script", ["llm_results", "curve"])
def test_a_folder_that_is_not_there_is_refused(
    script: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        request.getfixturevalue(script).main([str(tmp_path / "nowhere")])
    assert f"the folder of runs must be there, got {tmp_path / 'nowhere'}" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_the_curve_of_a_run_that_went_on_is_drawn_once(llm_results: ModuleType, curve: ModuleType, tmp_path: Path):
    write_run(tmp_path, "gigpo", 0, start=[0, 0, 1, 0], end=[1, 1, 1, 0])
    for number, (first, success) in enumerate(((1, [0.25, 0.5]), (2, [0.75, 1.0]))):  # the second iteration, again
        with SummaryWriter(tmp_path / "gigpo_0" / "lightning_logs" / f"version_{number}") as writer:
            for step, value in enumerate(success, first):
                writer.add_scalar("rollout/success_rate", value, step)
    llm_results.main([str(tmp_path)])
    for _ in range(2):
        curve.main([str(tmp_path)])
        rows = read(tmp_path / "curves.csv")
        assert [(row["iteration"], row["success"]) for row in rows] == [("0", "0.25"), ("1", "0.75"), ("2", "1.0")]
    assert "</svg>" in (tmp_path / "curve.svg").read_text()
