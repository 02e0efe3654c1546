"""`make train-llm`: what is carried out, what is done already, and a run that is stopped and goes on."""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
import yaml

from gigpo_lightning.cli import build_cli
from tests.benchmarks.llm_runs import write_parts, write_run
from tests.scripts import loaded

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "llm"
PASSES = [sys.executable, "-c", "pass"]
FAILS = [sys.executable, "-c", "raise SystemExit(3)"]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(FOLDER)
    with loaded(FOLDER / "train.py") as module:
        yield module


@pytest.fixture
def begun(train: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, list[str]]]:
    """Folder, name and command of each part; none is carried out."""
    parts: list[tuple[str, str, list[str]]] = []
    monkeypatch.setattr(
        train, "part", lambda folder, name, command, makes: parts.append((folder.name, name, list(map(str, command))))
    )
    monkeypatch.setattr(importlib.import_module("curve"), "main", lambda words: None)
    return parts


def lines_of(folder: Path) -> list[tuple[str, int]]:
    lines = [json.loads(line) for line in (folder / "parts.jsonl").read_text().splitlines()]
    return [(line["part"], line["exit_code"]) for line in lines]


def test_methods_start_from_one_imitation_and_are_compared(
    train: ModuleType, begun: list[tuple[str, str, list[str]]], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    wins = {"gigpo": ([1, 1, 1, 0], [1, 1, 0, 1]), "grpo": ([0, 1, 0, 0], [0, 1, 0, 0])}
    for method, seeds in wins.items():
        for seed, end in enumerate(seeds):
            write_run(tmp_path, method, seed, start=[0, 0, 0, 1], end=end)
    with caplog.at_level("INFO", logger="train-llm"):
        train.main(["--method", "gigpo", "grpo", "--seed", "0", "1", "0", "--runs", str(tmp_path)])
    assert [(folder, name) for folder, name, _ in begun if name != "model"] == [
        ("imitation_0", "imitation"),
        ("gigpo_0", "gigpo"),
        ("imitation_0", "imitation"),
        ("grpo_0", "grpo"),
        ("imitation_1", "imitation"),
        ("gigpo_1", "gigpo"),
        ("imitation_1", "imitation"),
        ("grpo_1", "grpo"),
    ]
    start = str(tmp_path / "imitation_1" / "policy")
    imitates, trains = begun[-2][2], begun[-1][2]
    assert imitates[imitates.index("--model.init_args.output_folder") + 1] == start
    assert trains[trains.index("--model.init_args.policy.init_args.model") + 1] == start
    for folder, name, command in begun:
        if name != "model":
            assert command[command.index("--seed_everything") + 1] == folder[-1]
            assert command[command.index("--trainer.default_root_dir") + 1] == str(tmp_path / folder)
            assert ("grpo.yaml" in " ".join(command)) == (name == "grpo")
    said = [record.getMessage() for record in caplog.records]
    assert said[4:8] == said[:4], "each is said when it has ended, and all at the end"
    assert said[0].startswith("gigpo, seed 0: 0.250 before, 0.750 after, on 4 held-out games; gain +0.500 [")
    assert [line.split(" [")[0] for line in said[8:]] == [
        "gigpo ahead of grpo, seed 0: +0.500",
        "gigpo ahead of grpo, seed 1: +0.500",
        "gigpo ahead of grpo, 2 seeds: +0.500",
    ]
    assert (tmp_path / "comparison.csv").exists()


def test_the_last_line_of_one_run_is_its_gain(
    train: ModuleType, begun: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_run(tmp_path, "gigpo", 0, start=[0, 0], end=[1, 1])
    with caplog.at_level("INFO"):
        train.main(["--runs", str(tmp_path)])
    last = caplog.records[-1].getMessage()
    assert last == (
        "gigpo, seed 0: 0.000 before, 1.000 after, on 2 held-out games; gain +1.000 [+1.000, +1.000]; 3 minutes in "
        "all, at most 5.5 GiB"
    )


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--seed", "-1"], "argument --seed: must be a whole number, 0 or more, got '-1'"),
        (["--seed", "x"], "argument --seed: must be a whole number, 0 or more, got 'x'"),
        (["--method", "foo"], "argument --method: invalid choice: 'foo'"),
        (["--metod", "grpo"], "unrecognized arguments: --metod grpo"),
        (["--dry_run"], "unrecognized arguments: --dry_run"),  # a part's own options would make another run of it
        (["--runs", "/dev/null"], "--runs must be a folder, or one that can be made, got '/dev/null': File exists"),
    ],
)
def test_mistakes_are_refused_before_anything_is_done(
    train: ModuleType, begun: list[Any], words: list[str], error: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as end:
        train.main(words)
    assert end.value.code == 2
    assert error in capsys.readouterr().err
    assert begun == []


def test_a_run_without_its_two_evaluations_is_refused_in_a_line(train: ModuleType, begun: Any, tmp_path: Path):
    write_run(tmp_path, "gigpo", 0, start=[0], end=[1])
    (tmp_path / "gigpo_0" / "lightning_logs" / "version_1" / "evaluations.jsonl").unlink()
    with pytest.raises(SystemExit) as end:
        train.main(["--runs", str(tmp_path)])
    assert "two evaluations of one split, before training and after it, got 1" in str(end.value.code)


def test_an_imitation_that_is_gone_is_not_made_anew_beside_its_runs(
    train: ModuleType, begun: list[Any], tmp_path: Path
):
    write_run(tmp_path, "gigpo", 0, start=[0], end=[1])
    (tmp_path / "imitation_0" / "policy").rmdir()
    with pytest.raises(SystemExit) as end:
        train.main(["--method", "grpo", "--runs", str(tmp_path)])
    assert f"{tmp_path / 'imitation_0' / 'policy'} must be there, for gigpo_0 began with it" in str(end.value.code)
    assert begun == []


def test_a_training_goes_on_from_its_checkpoint(
    train: ModuleType, begun: list[tuple[str, str, list[str]]], tmp_path: Path
):
    checkpoints = tmp_path / "lightning_logs" / "version_0" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.ckpt").symlink_to("epoch=3.ckpt")  # which is not there
    train.learn(tmp_path, "gigpo", [], [], tmp_path)
    (checkpoints / "epoch=3.ckpt").touch()
    train.learn(tmp_path, "gigpo", [], [], tmp_path)
    (_, _, first), (_, _, second) = begun
    assert "--ckpt_path" not in first
    assert second[-2:] == ["--ckpt_path", "last"]


@pytest.mark.slow
def test_the_methods_differ_by_their_credit_alone(train: ModuleType, capsys: pytest.CaptureFixture[str]):
    printed = {}
    for method, files in train.METHODS.items():
        configs = [word for file in (train.CONFIGS / "llm_cpu.yaml", *files) for word in ("--config", str(file))]
        with pytest.raises(SystemExit):
            build_cli(["fit", *configs, "--print_config"])
        printed[method] = yaml.safe_load(capsys.readouterr().out)
    credit = {method: config["model"]["init_args"].pop("credit") for method, config in printed.items()}
    assert printed["grpo"] == printed["gigpo"]
    assert {method: each["class_path"].rpartition(".")[2] for method, each in credit.items()} == {
        "gigpo": "GiGPO",
        "grpo": "GRPO",
    }
    shared = credit["gigpo"]["init_args"].keys() & credit["grpo"]["init_args"].keys()
    assert {"scale_by_std", "episode_statistics", "invalid_action_penalty", "own_step_penalty"} <= shared
    assert all(credit["gigpo"]["init_args"][name] == credit["grpo"]["init_args"][name] for name in shared)


def test_a_part_is_done_once_and_a_stopped_one_again(train: ModuleType, tmp_path: Path):
    with pytest.raises(SystemExit) as end:
        train.part(tmp_path, "imitation", FAILS, tmp_path)
    assert end.value.code == 3
    train.part(tmp_path, "imitation", PASSES, tmp_path)
    train.part(tmp_path, "imitation", FAILS, tmp_path)  # not carried out
    assert lines_of(tmp_path) == [("imitation", 3), ("imitation", 0)]


def test_a_part_that_is_done_is_none_of_the_others(train: ModuleType, tmp_path: Path):
    write_parts(tmp_path, ("model", 1.0, 1.0, 0))
    train.part(tmp_path, "imitation", PASSES, tmp_path)
    assert lines_of(tmp_path) == [("model", 0), ("imitation", 0)]


def test_a_part_whose_work_is_gone_is_done_anew(train: ModuleType, tmp_path: Path):
    policy = tmp_path / "policy"
    makes = [sys.executable, "-c", f"import pathlib; pathlib.Path({str(policy)!r}).mkdir()"]
    train.part(tmp_path, "imitation", makes, policy)
    policy.rmdir()
    train.part(tmp_path, "imitation", makes, policy)
    assert policy.is_dir()


def test_half_a_line_of_a_killed_process_spoils_no_other(train: ModuleType, tmp_path: Path):
    (tmp_path / "parts.jsonl").write_text('{"part": "imit')
    train.part(tmp_path, "imitation", PASSES, tmp_path)
    train.part(tmp_path, "imitation", FAILS, tmp_path)  # not carried out
    assert (tmp_path / "parts.jsonl").read_text().startswith('{"part": "imit\n{"part": "imitation"')


def test_a_folder_is_for_one_process_at_a_time(train: ModuleType, tmp_path: Path):
    with (
        train.held(tmp_path),
        pytest.raises(ValueError, match=f"another process is at work in {tmp_path}; wait for it"),
    ):
        train.part(tmp_path, "gigpo", PASSES, tmp_path)
    train.part(tmp_path, "gigpo", PASSES, tmp_path)
    assert lines_of(tmp_path) == [("gigpo", 0)]


@pytest.mark.slow
def test_a_part_whose_parent_was_killed_holds_its_folder(train: ModuleType, tmp_path: Path):
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    script = f"import train, pathlib; train.part(pathlib.Path({str(tmp_path)!r}), 'gigpo', {sleeps!r}, pathlib.Path())"
    parent = psutil.Popen([sys.executable, "-c", script], cwd=FOLDER)
    while not (left := [child for child in parent.children() if child.cmdline() == sleeps]):
        assert parent.poll() is None
        time.sleep(0.1)
    try:
        parent.kill()
        parent.wait()
        with pytest.raises(ValueError, match="another process"):
            train.part(tmp_path, "gigpo", PASSES, tmp_path)
    finally:
        left[0].kill()
    left[0].wait()
    train.part(tmp_path, "gigpo", PASSES, tmp_path)


def test_what_a_part_leaves_running_does_not_hold_the_folder(train: ModuleType, tmp_path: Path):
    with train.held(tmp_path) as lock:
        left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=(lock,))
    with train.held(tmp_path):
        left.kill()
    left.wait()


@pytest.mark.parametrize("threads", [None, "1"])
def test_the_engine_has_all_cores_unless_the_user_says_otherwise(
    train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str | None
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    script = (
        f"import os, pathlib; pathlib.Path({str(tmp_path / 'threads')!r}).write_text(os.environ['OMP_NUM_THREADS'])"
    )
    train.part(tmp_path, "gigpo", [sys.executable, "-c", script], tmp_path)
    assert (tmp_path / "threads").read_text() == (threads or str(os.cpu_count()))


@pytest.mark.slow
def test_a_silent_part_is_told_of_and_its_lines_are_passed_on(
    train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    monkeypatch.setattr(train, "_EVERY", 0.1)
    monkeypatch.setattr(train, "_SILENT", 0.3)
    script = "import sys, time; print('begun', file=sys.stderr, flush=True); time.sleep(1.5); sys.exit(5)"
    with caplog.at_level("INFO", logger="train-llm"), train.held(tmp_path) as lock:
        code, most = train.watched("imitation", [sys.executable, "-c", script], lock)
    assert code == 5
    assert most > 0
    assert "begun" in capfd.readouterr().err
    assert any(record.getMessage().startswith("imitation: ") for record in caplog.records)


@pytest.mark.slow
def test_the_memory_of_a_part_is_also_that_of_what_it_has_started(train: ModuleType):
    child = "x = b'1' * (200 << 20); print(flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with psutil.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        most = train.resident_gib(process)
        process.stdin.close()
    assert 0.19 < most < 0.4
    assert train.resident_gib(process) == 0  # which has ended


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "exit_code", "status"),
    [
        (signal.SIGTERM, -signal.SIGTERM, 128 + signal.SIGTERM),  # the part is told
        (signal.SIGINT, 5, 5),  # the terminal tells it; here it ends by itself
    ],
)
def test_a_signal_ends_the_part_which_is_waited_for_and_written_down(
    train: ModuleType, tmp_path: Path, number: signal.Signals, exit_code: int, status: int
):
    before, begun = signal.getsignal(number), tmp_path / "begun"

    def tell() -> None:
        while not begun.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    tells = threading.Thread(target=tell)
    tells.start()
    lasts = 2 if number == signal.SIGINT else 60
    script = f"import pathlib, sys, time; pathlib.Path({str(begun)!r}).touch(); time.sleep({lasts}); sys.exit(5)"
    with pytest.raises(SystemExit) as end:
        train.part(tmp_path, "gigpo", [sys.executable, "-c", script], tmp_path)
    tells.join()
    assert end.value.code == status
    assert lines_of(tmp_path) == [("gigpo", exit_code)]
    assert signal.getsignal(number) == before


@pytest.mark.slow
def test_a_part_ends_when_this_process_fails(train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "_EVERY", 0.1)
    seen: list[int] = []

    def fails(process: psutil.Process) -> float:
        seen.append(process.pid)
        raise OSError("no more files")

    monkeypatch.setattr(train, "resident_gib", fails)
    with pytest.raises(OSError, match="no more files"):
        train.part(tmp_path, "gigpo", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)
    assert not psutil.pid_exists(seen[0])
