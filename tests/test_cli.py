"""The one door: every config is parsed, mistakes are refused by name, and the CPU configs are run for real."""

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import redirect_stdout
from copy import deepcopy
from importlib import import_module
from inspect import signature
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gigpo_lightning.cli import build_cli
from modules import PretrainedPolicy
from tests import forked
from tests.forked import gigpo
from tests.resume_run import assert_same_run, saboteur

ROOT = Path(__file__).resolve().parent.parent
HYDRAS = ROOT / "configs" / "sweep"  # tests/sweep composes these
PATHS = [path for path in (ROOT / "configs").rglob("*.yaml") if not path.is_relative_to(HYDRAS)]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in PATHS)
TWO_EPOCHS = ["fit", "--config", "configs/gridworld_cpu.yaml", "--data.init_args.deterministic", "true"]
TWO_EPOCHS += ["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "2"]
ON_TOP = [config for config in CONFIGS if config.startswith("configs/credit/")]


def console_script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What ``gigpo`` of ``tests.forked`` does, by the script that users call."""
    script = Path(sys.executable).parent / "gigpo"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    options = ["--trainer.default_root_dir", str(folder)]
    return subprocess.run(
        [script, *arguments, *options],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=1200,
        cwd=ROOT,
    )


def printed_config(capsys: pytest.CaptureFixture[str], *configs: str) -> dict:
    """What ``gigpo fit --config ... --print_config`` prints."""
    with pytest.raises(SystemExit) as stop:
        build_cli(["fit", *(word for config in configs for word in ("--config", str(ROOT / config))), "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("config", [config for config in CONFIGS if config not in ON_TOP])
def test_every_config_is_parsed(config: str, capsys: pytest.CaptureFixture[str]):
    assert "class_path" in printed_config(capsys, config)["model"]


@pytest.fixture(scope="module")
def tiny_config() -> dict[str, Any]:
    """The run's config that presets go on top of."""
    command = ["fit", "--config", str(ROOT / "configs/alfworld/tiny_cpu.yaml"), "--print_config"]
    with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit):
        build_cli(command)
    config: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return config


@pytest.mark.parametrize("config", ON_TOP)
@pytest.mark.slow
def test_a_credit_preset_goes_on_top_of_a_run_s_config(
    config: str, tiny_config: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    below = deepcopy(tiny_config)
    printed = printed_config(capsys, "configs/alfworld/tiny_cpu.yaml", config)
    for each in (printed, below):  # presets leave a grouping's arguments out
        (each["model"]["init_args"]["credit"]["init_args"].get("grouping") or {}).pop("init_args", None)
    preset = yaml.safe_load((ROOT / config).read_text())
    assert printed == on_top(below, preset)  # and nothing else is touched


def on_top(below: Any, preset: Any) -> Any:
    """A config with a preset on top of it; another class brings its own arguments."""
    same = isinstance(below, dict) and isinstance(preset, dict)
    if not same or preset.get("class_path") != below.get("class_path"):
        return preset
    return below | {key: on_top(below.get(key), value) for key, value in preset.items()}


@pytest.mark.parametrize("config", ON_TOP)
def test_a_credit_preset_leaves_nothing_to_a_default(config: str):
    ours = yaml.safe_load((ROOT / config).read_text())
    parts = [part for place in ours.values() for part in place["init_args"].values()]
    parts += [part for loss in parts if "class_path" not in loss for part in loss.values() if isinstance(part, dict)]
    chosen = [part for part in parts if "class_path" in part]
    assert chosen
    for part in chosen:
        package, _, name = part["class_path"].rpartition(".")
        kind = getattr(import_module(package), name)
        assert set(part["init_args"]) == set(signature(kind).parameters)


@pytest.mark.slow
def test_a_mistake_ends_with_one_error_and_no_traceback(tmp_path: Path):
    (tmp_path / "json_2.1.1").mkdir()
    (tmp_path / "json_2.1.1" / "somebody_s.txt").touch()
    options = ["--data.init_args.tasks.init_args.data_dir", str(tmp_path)]
    result = console_script(tmp_path, "fit", "--config", "configs/alfworld/tiny_cpu.yaml", *options)
    assert result.returncode == 2
    assert "error: data_dir must be free for scenes, but " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of the gridworld, evaluated before and after; deterministic, as another run is to be its equal."""
    folder = tmp_path_factory.mktemp("runs")
    result = console_script(folder, *TWO_EPOCHS)
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


def of_demonstrations(options: list[str]) -> list[str]:
    """A rollout's options, for a source of demonstrations."""
    return [word.replace("--data.init_args.", "--data.init_args.demonstrations.init_args.") for word in options]


@pytest.fixture(scope="module")
def few_scenes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that make a config play a handful of scenes in a folder of the test's."""
    tasks = "--data.init_args.tasks.init_args."
    scenes = [word for split in ("train", "valid_seen", "valid_unseen") for word in (f"{tasks}scenes.{split}", "6")]
    return [f"{tasks}data_dir", str(tmp_path_factory.mktemp("alfworld")), *scenes]


@pytest.mark.alfworld
@pytest.mark.vllm
@pytest.mark.slow
def test_the_quickstart_trains_the_policy_that_is_shipped(few_scenes: list[str], tmp_path: Path):
    options = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]
    options += ["--data.init_args.tasks_per_epoch", "2", "--data.init_args.group_size", "4"]
    result = gigpo(tmp_path, "fit", "--config", "configs/alfworld/tiny_cpu.yaml", *options, *few_scenes)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "95 % paired bootstrap over 6 games" in result.stderr
    (exported,) = tmp_path.glob("lightning_logs/version_0/exports/epoch_0")
    assert f"policy written to {exported}" in result.stderr
    steps = pq.read_table(tmp_path / "lightning_logs/version_0/trajectories/epoch_0.parquet")
    # The policy that is shipped writes commands, not noise.
    assert np.mean(steps["valid_action"].to_numpy()) > 0.4


@pytest.mark.alfworld
@pytest.mark.slow
def test_the_warm_start_writes_a_policy_that_the_quickstart_could_load(few_scenes: list[str], tmp_path: Path):
    folder = tmp_path / "policy"
    options = ["--trainer.max_epochs", "1", "--model.init_args.output_folder", str(folder)]
    options += ["--data.init_args.demonstrations.init_args.held_out_tasks", "2"]
    options += ["--data.init_args.demonstrations.init_args.episodes_per_task", "1"]
    result = gigpo(
        tmp_path, "fit", "--config", "configs/alfworld/warm_start.yaml", *options, *of_demonstrations(few_scenes)
    )
    assert result.returncode == 0, result.stderr[-4000:]
    made, shipped = (PretrainedPolicy(str(each)).build() for each in (folder, ROOT / "configs/alfworld/tiny_policy"))
    shapes = [{name: value.shape for name, value in policy.state_dict().items()} for policy in (made, shipped)]
    assert shapes[0] == shapes[1]
    assert made.tokenizer.tokenizer.get_vocab() == shipped.tokenizer.tokenizer.get_vocab()


def small_world(folder: Path) -> list[str]:
    """Options that make a config play a small invented world in a folder of the test's."""
    data = "--data.init_args."
    sizes = {"people": 40, "works": 40, "train": 20, "dev": 4, "test": 12}
    options = [word for name, size in sizes.items() for word in (f"{data}tasks.init_args.world.{name}", str(size))]
    places = ("tasks.init_args.data_dir", "environment.init_args.retriever.init_args.data_dir")
    return [*options, *(word for place in places for word in (data + place, str(folder / "world")))]


@pytest.mark.vllm
@pytest.mark.slow
def test_search_qa_trains_the_policy_that_is_shipped(tmp_path: Path):
    options = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]
    options += ["--data.init_args.tasks_per_epoch", "4", "--data.init_args.group_size", "4"]
    options += small_world(tmp_path)
    result = gigpo(tmp_path, "fit", "--config", "configs/search_qa/tiny_cpu.yaml", *options)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "95 % paired bootstrap over 12 games" in result.stderr
    steps = pq.read_table(tmp_path / "lightning_logs/version_0/trajectories/epoch_0.parquet")
    assert np.mean(steps["valid_action"].to_numpy()) > 0.9
    assert any("<information>" in text for text in steps["observation"].to_pylist())


@pytest.mark.slow
def test_search_qa_s_warm_start_writes_a_policy_of_the_form_that_is_shipped(tmp_path: Path):
    folder = tmp_path / "policy"
    options = ["--trainer.max_epochs", "1", "--model.init_args.output_folder", str(folder)]
    options += ["--data.init_args.demonstrations.init_args.episodes_per_task", "1"]
    options += of_demonstrations(small_world(tmp_path))
    result = gigpo(tmp_path, "fit", "--config", "configs/search_qa/warm_start.yaml", *options)
    assert result.returncode == 0, result.stderr[-4000:]
    made, shipped = (PretrainedPolicy(str(each)).build() for each in (folder, ROOT / "configs/search_qa/tiny_policy"))
    assert made.tokenizer.tokenizer.get_vocab() == shipped.tokenizer.tokenizer.get_vocab()
    assert {name: value.shape for name, value in made.state_dict().items()} == {
        name: value.shape for name, value in shipped.state_dict().items()
    }


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


@pytest.mark.slow
@pytest.mark.vllm
def test_two_sharded_ranks_with_an_engine_each_go_on_as_one_process(tmp_path: Path):
    common = ["fit", "--config", "configs/gridworld_cpu.yaml", "--trainer.check_val_every_n_epoch", "1"]
    both = ["--trainer.strategy", "fsdp2", "--trainer.devices", "2", "--trainer.max_epochs", "1"]
    result = console_script(tmp_path, *common, *both)  # which starts itself once more
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stderr.count("epoch 0: success") == 1  # what every rank would say is said once
    (folder,) = (tmp_path / "lightning_logs").iterdir()  # that of all ranks
    lines = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    panel = json.loads((folder / "manifest.json").read_text())["panels"]["valid_unseen"]["tasks"]
    played = Counter((line["policy_version"], line["task_id"]) for line in lines)
    assert set(played.values()) == {1}
    assert len(played) == 2 * panel
    assert f"95 % paired bootstrap over {panel} games" in result.stderr
    ranks = [pq.read_table(folder / "trajectories" / f"epoch_0.{rank}.parquet") for rank in range(2)]
    tasks = [set(rank["task_id"].to_pylist()) for rank in ranks]
    assert [len(each) for each in tasks] == [8, 8]
    assert not tasks[0] & tasks[1]
    events = EventAccumulator(str(folder))
    events.Reload()
    assert max(event.value for event in events.Scalars("sync/max_abs_logprob_error")) < 1e-4
    (success,) = (event.value for event in events.Scalars("rollout/success_rate"))
    episodes = {(rank, row["trajectory_id"]): row["success"] for rank in range(2) for row in ranks[rank].to_pylist()}
    assert success == pytest.approx(np.mean(list(episodes.values())))
    result = gigpo(tmp_path, *common, "--trainer.max_epochs", "2", "--ckpt_path", "last")
    assert result.returncode == 0, result.stderr[-4000:]
    assert "1 epoch done" in result.stderr
    assert "epoch 1: success" in result.stderr


@pytest.mark.slow
def test_the_parsed_defaults_are_those_of_the_paper():
    cli = build_cli(
        {
            "model": {
                "class_path": "modules.GiGPOModule",
                "init_args": {
                    "policy": {"class_path": "modules.PretrainedPolicy", "init_args": {"model": "nowhere"}},
                    "credit": {"class_path": "gigpo_lightning.algorithm.GiGPO"},
                },
            },
            "data": {
                "class_path": "datamodules.RolloutDataModule",
                "init_args": {
                    "environment": {"class_path": "gigpo_lightning.environments.gridworld.GridworldEnvironment"},
                    "tasks": {"class_path": "gigpo_lightning.environments.gridworld.GridworldTasks"},
                    "prompt": {"class_path": "gigpo_lightning.prompts.gridworld.GridworldPrompt"},
                    "engine": {"class_path": "gigpo_lightning.rollout.VLLMEngine"},
                },
            },
        },
        run=False,
    )
    credit = cli.model.credit
    assert (credit.step_advantage_weight, credit.discount, credit.scale_by_std) == (1.0, 0.95, False)
    assert (credit.episode_statistics, credit.penalty_placement, credit.invalid_action_penalty) == (
        "trajectory",
        "reward",
        0.1,
    )
    assert (
        cli.datamodule.player.tasks_per_epoch,
        cli.datamodule.player.group_size,
        cli.datamodule.player.max_steps,
    ) == (16, 8, 50)


@pytest.mark.slow
def test_one_seed_reaches_the_tasks_order_and_the_sampling_noise():
    cli = build_cli(["--config", str(ROOT / "configs/gridworld_cpu.yaml"), "--seed_everything", "3"], run=False)
    assert cli.datamodule.player.seed == 3


@pytest.mark.slow
def test_a_dry_run_plans_for_machines_that_are_not_there(tmp_path: Path):
    options = ["--trainer.num_nodes", "4", "--trainer.devices", "2", "--trainer.strategy", "fsdp2", "--dry_run"]
    result = gigpo(tmp_path, "fit", "--config", "configs/gridworld_cpu.yaml", *options)
    assert result.returncode == 0, result.stderr
    assert "8 ranks: 4 machines with 2 each, accelerator cpu, strategy fsdp2, precision 32-true" in result.stderr
    assert "a rank plays 2 groups on its own VLLMEngine" in result.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_dry_run_plans_with_gpus_that_this_machine_has_not(tmp_path: Path):
    options = ["--trainer.num_nodes", "2", "--trainer.devices", "8", "--trainer.strategy", "fsdp", "--dry_run"]
    result = gigpo(tmp_path, "fit", "--config", "configs/alfworld/qwen2.5_7b.yaml", *options)
    assert result.returncode == 0, result.stderr
    assert "16 ranks: 2 machines with 8 each, accelerator gpu, strategy fsdp, precision bf16-mixed" in result.stderr
    assert "a rank plays 1 groups on its own VLLMEngine, with 4 worker processes" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.num_nodes", "9", "--trainer.devices", "2"], "tasks_per_epoch must be >= 18, the number of ranks"),
        (["--trainer.strategy", "fsdp"], "trainer.strategy 'fsdp' needs GPUs; on CPUs use 'fsdp2'"),
    ],
)
def test_a_dry_run_finds_what_the_run_would_have_found(options: list[str], message: str, tmp_path: Path):
    result = gigpo(tmp_path, "fit", "--config", "configs/gridworld_cpu.yaml", *options, "--dry_run")
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_help_of_a_class_says_what_stands_below_its_fields():
    said = forked.run("gigpo_lightning.cli", "fit", "--model.help", "modules.GiGPOModule").stdout
    assert "--model.loss.clip_low" in said
    assert "between 0 and 1" in said
