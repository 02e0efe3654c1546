"""A real run by the command line: all that it writes, and all that can be done with it."""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modules import PretrainedPolicy
from tests import forked
from tests.forked import gigpo
from tests.resume_run import assert_same_run, saboteur

TWO_EPOCHS = ["fit", "--config", "configs/gridworld_cpu.yaml", "--data.init_args.deterministic", "true"]
TWO_EPOCHS += ["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "2"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of the gridworld, evaluated before and after; deterministic, as another run is to be its equal."""
    folder = tmp_path_factory.mktemp("runs")
    result = gigpo(folder, *TWO_EPOCHS)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "held-out success on valid_unseen" in result.stderr
    assert f"{Path(sys.executable).with_name('tensorboard')} --logdir" in result.stderr
    return folder / "lightning_logs" / "version_0"


@pytest.mark.vllm
@pytest.mark.slow
class TestARun:
    def test_every_scalar_of_the_contract_is_in_tensorboard(self, run_folder: Path):
        events = EventAccumulator(str(run_folder))
        events.Reload()
        wanted = {
            "rollout/success_rate",
            "rollout/return",
            "rollout/episode_length",
            "rollout/invalid_action_rate",
            "rollout/tokens_per_second",
            "held_out/valid_unseen/success_rate",
            "held_out/valid_unseen/near/success_rate",
            "anchors/group_size_mean",
            "anchors/singleton_fraction",
            "anchors/nonzero_step_advantage_fraction",
            "anchors/step_to_episode_ratio",
            "loss/policy",
            "loss/kl",
            "loss/entropy",
            "loss/clip_fraction",
            "sync/max_abs_logprob_error",
            "sync/mean_abs_logprob_error",
            "sync/p99_abs_logprob_error",
            "sync/seconds",
            "time/rollout",
            "time/credit",
            "time/update",
            "time/iteration",
            "update/tokens",
            "update/distinct_tokens",
            "update/sharing",
            "memory/resident_gib",
        }
        assert wanted <= set(events.Tags()["scalars"])
        assert max(event.value for event in events.Scalars("sync/max_abs_logprob_error")) < 1e-4
        assert len(events.Scalars("rollout/return")) == 2

    def test_the_benchmark_tells_where_the_time_went(self, run_folder: Path):
        result = forked.run("benchmarks.main_job", str(run_folder), "--skip", "0")
        seconds = {line[:20].strip(): float(line[20:].split()[0]) for line in result.stderr.splitlines()[:8]}
        parts = {"engine", "environment", "rest of the rollout", "credit", "update", "sync", "rest"}
        assert seconds.keys() == {"iteration", *parts}
        assert sum(seconds[part] for part in parts) == pytest.approx(seconds["iteration"], abs=0.01)
        for said in ("rollout/episodes_per_second", "rollout/tokens_per_second", "resident memory after iteration 2"):
            assert said in result.stderr

    def test_the_benchmark_of_the_update_gets_the_gradient_of_padded_rows(self, run_folder: Path):
        file = run_folder / "trajectories" / "epoch_1.parquet"
        options = ["--once", "--rows", "64", "--vocabulary", "500"]
        result = forked.run("benchmarks.update", str(file), *options)
        assert result.returncode == 0, result.stderr[-2000:]
        tokens = {line.split()[0]: int(line.split()[1]) for line in result.stdout.splitlines()[2:]}
        assert tokens["padded"] >= tokens["rows"] > tokens["trees"]

    def test_every_held_out_game_is_played_once_an_evaluation(self, run_folder: Path):
        lines = [json.loads(line) for line in (run_folder / "evaluations.jsonl").read_text().splitlines()]
        evaluations = {line["policy_version"]: [] for line in lines}
        for line in lines:
            evaluations[line["policy_version"]].append(line["task_id"])
        assert len(evaluations) == 2
        manifest = json.loads((run_folder / "manifest.json").read_text())
        for played in evaluations.values():
            assert len(set(played)) == len(played) == manifest["panels"]["valid_unseen"]["tasks"]

    def test_the_manifest_names_the_engine_and_its_model_runner(self, run_folder: Path):
        engine = json.loads((run_folder / "manifest.json").read_text())["engine"]
        assert engine["class"] == "VLLMEngine"
        assert engine["model_runner"] in ("V1", "V2")
        assert engine["model_runner_class"].startswith("vllm.")

    def test_the_trajectories_open_without_this_package(self, run_folder: Path):
        table = pq.read_table(run_folder / "trajectories" / "epoch_1.parquet")
        assert {"observation", "action", "reward", "advantage", "prompt_ids", "policy_version"} <= set(
            table.column_names
        )
        assert len(set(table["trajectory_id"].to_pylist())) == 16 * 8

    def test_a_checkpoint_goes_on_where_it_stopped(self, run_folder: Path, tmp_path: Path):
        checkpoint = run_folder / "checkpoints" / "last.ckpt"
        options = ["--trainer.max_epochs", "3", "--ckpt_path", str(checkpoint)]
        result = gigpo(tmp_path, "fit", "--config", "configs/gridworld_cpu.yaml", *options)
        assert result.returncode == 0, result.stderr[-4000:]
        assert "epoch 2: success" in result.stderr
        assert "epoch 1: success" not in result.stderr

    def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_last_bit(self, run_folder: Path, tmp_path: Path):
        moments = [
            saboteur("rollout", 1, 100),
            saboteur("update", 1),  # between two updates
            saboteur("checkpoint", 1),  # of which last.ckpt would have become a link
        ]
        for index, moment in enumerate([*moments, []]):
            result = gigpo(tmp_path, *TWO_EPOCHS, *moment, *(["--ckpt_path", "last"] if index else []))
            assert result.returncode == (-9 if moment else 0), result.stderr[-4000:]
        assert_same_run(tmp_path, run_folder.parent.parent)

    @pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
    def test_a_checkpoint_is_evaluated(self, subcommand: str, run_folder: Path, tmp_path: Path):
        checkpoint = run_folder / "checkpoints" / "last.ckpt"
        result = gigpo(tmp_path, subcommand, "--config", "configs/gridworld_cpu.yaml", "--ckpt_path", str(checkpoint))
        assert result.returncode == 0, result.stderr[-4000:]
        expected = "trajectories/predict_valid_unseen" if subcommand == "predict" else "held_out/valid_unseen/success"
        assert expected in result.stderr

    def test_a_checkpoint_is_exported_and_no_run_is_begun(self, run_folder: Path, tmp_path: Path):
        result = gigpo(tmp_path / "runs", "export", "--ckpt_path", str(run_folder), "--folder", str(tmp_path / "out"))
        assert result.returncode == 0, result.stderr[-4000:]
        assert f"policy written to {tmp_path / 'out'}" in result.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        exported = dict(PretrainedPolicy(str(tmp_path / "out")).build().named_weights())
        kept = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(exported[name.removeprefix("_policy.model.")], each) for name, each in kept.items())


@pytest.mark.slow
@pytest.mark.vllm
def test_replaying_a_run_s_episodes_gives_its_weights_to_the_last_bit(run_folder: Path, tmp_path: Path):
    options = ["--trainer.max_epochs", "2", "--data.init_args.folder", str(run_folder / "trajectories")]
    result = gigpo(tmp_path, "fit", "--config", "configs/gridworld_replay.yaml", *options)
    assert result.returncode == 0, result.stderr[-4000:]
    ours, theirs = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (tmp_path / "lightning_logs" / "version_0", run_folder)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
