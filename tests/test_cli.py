"""The one door: every config is parsed, mistakes are refused by name, and the CPU configs are run for real."""

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
import yaml

from gigpo_lightning.cli import build_cli
from modules import PretrainedPolicy
from tests import forked
from tests.forked import console_script, gigpo

ROOT = Path(__file__).resolve().parent.parent
HYDRAS = ROOT / "configs" / "sweep"  # tests/sweep composes these
PATHS = [path for path in (ROOT / "configs").rglob("*.yaml") if not path.is_relative_to(HYDRAS)]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in PATHS)
ON_TOP = [config for config in CONFIGS if config.startswith("configs/credit/")]


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


@pytest.mark.slow
def test_a_word_of_an_enumeration_is_written_as_a_word_and_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "timer.yaml"
    path.write_text("trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.Timer}]}")
    printed = printed_config(capsys, "configs/gridworld_cpu.yaml", str(path))
    (timer,) = printed["trainer"]["callbacks"]
    assert timer["init_args"]["interval"] == "step"
    path.write_text(yaml.safe_dump(printed))
    assert printed_config(capsys, str(path)) == printed


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
