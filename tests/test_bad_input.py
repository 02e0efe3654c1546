"""What a user can get wrong ends with one line that says what, before anything is lost."""

import json
import logging
import sys
from pathlib import Path

import pytest
import torch

from gigpo_lightning import cli
from gigpo_lightning.engines.vllm_server.client import ServerTimeouts
from modules.fsdp2 import FSDP2Strategy

ROOT = Path(__file__).resolve().parent.parent
GRIDWORLD = str(ROOT / "configs/gridworld_cpu.yaml")
QWEN = str(ROOT / "configs/alfworld/qwen2.5_1.5b.yaml")
DATA = "--data.init_args."
MODEL = "--model.init_args."


@pytest.fixture
def complaint(tmp_path, monkeypatch, caplog):
    """Runs the command line, and returns the one error that it ends with."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    caplog.set_level(logging.ERROR)

    def run(*arguments: str) -> str:
        options = ["--trainer.default_root_dir", str(tmp_path)]
        if "--trainer.accelerator" not in arguments:
            options += ["--trainer.accelerator", "cpu"]
        monkeypatch.setattr("sys.argv", ["gigpo", *arguments, *options])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 2
        ours = [
            each for each in caplog.records if each.name.startswith("gigpo")
        ]  # what a library cleans up late is none
        (message,) = [each.getMessage() for each in ours if each.levelno == logging.ERROR]
        first, second = message.splitlines()
        assert second == "(GIGPO_LOG_LEVEL=DEBUG shows where it was raised)"
        return first.removeprefix("error: ")

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((DATA + "sampling.heat", "1"), "unrecognized arguments: --sampling.heat=1"),
        (("--trainer.max_epohcs", "1"), "unrecognized arguments: --trainer.max_epohcs"),
        ((MODEL + "credit", "gigpo_lightning.algorithm.GIGPO"), "GIGPO"),
        ((MODEL + "credit.init_args.discount", "1.5"), "discount must be in [0, 1], got 1.5"),
        ((MODEL + "loss.clip_low", "2"), "clip_low must be in [0, 1], got 2"),
        ((DATA + "group_size", "1"), "group_size must be >= 2, got 1: a group of one has nothing to be compared with"),
        ((DATA + "max_steps", "0"), "max_steps must be >= 1, got 0"),
        ((DATA + "sampling.max_tokens", "0"), "max_tokens must be >= 1, got 0"),
        ((DATA + "tasks_per_epoch", "100000"), "tasks_per_epoch must be <= the"),
        ((DATA + "held_out_splits", "[nowhere]"), "nowhere"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(complaint, arguments, expected):
    assert expected in complaint("fit", "--config", GRIDWORLD, *arguments)


def test_a_config_that_is_not_there_is_named(complaint):
    assert "nowhere.yaml" in complaint("fit", "--config", "nowhere.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(("where", "code"), [("__init__", "0"), ("prepare", "None"), ("panel", "'bye'")])
def test_an_exit_in_the_middle_of_a_run_is_no_success(complaint, where, code):
    tasks = (DATA + "tasks", "tests.quitters.QuittingTasks", DATA + "tasks.init_args.where", where.strip("_"))
    message = complaint("fit", "--config", GRIDWORLD, *tasks)
    assert "quitters.py, line" in message
    assert f"in {where}: sys.exit({code}) in the middle of a run" in message


class TestAlfworldsData:
    @pytest.mark.slow
    def test_a_missing_folder_is_named(self, complaint, tmp_path):
        folder = str(tmp_path / "nowhere")
        message = complaint(
            "fit", "--config", QWEN, "--trainer.devices", "1", DATA + "tasks.init_args.data_dir", folder
        )
        assert folder in message
        assert message.endswith(f"alfworld-download --data-dir {folder}")

    @pytest.mark.slow
    def test_a_folder_without_games_is_named(self, complaint, tmp_path):
        (tmp_path / "json_2.1.1" / "train").mkdir(parents=True)
        data_dir = (DATA + "tasks.init_args.data_dir", str(tmp_path))
        assert str(tmp_path) in complaint("fit", "--config", QWEN, "--trainer.devices", "1", *data_dir)


@pytest.mark.slow
def test_a_model_that_is_not_there_is_named(complaint, tmp_path):
    policy = (MODEL + "policy", "modules.PretrainedPolicy", MODEL + "policy.init_args.model", str(tmp_path / "nowhere"))
    message = complaint("fit", "--config", GRIDWORLD, *policy)
    assert message.startswith(
        "model.init_args.policy.init_args.model must be a checkpoint folder or a hub name that can be loaded"
    )
    assert "nowhere" in message


@pytest.mark.slow
def test_a_run_folder_with_checkpoints_is_not_written_into(complaint, tmp_path):
    folder = tmp_path / "gridworld" / "mine"
    kept = folder / "checkpoints" / "last.ckpt"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"precious")
    logger = {"save_dir": str(tmp_path), "name": "gridworld", "version": "mine"}
    logger = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": logger}
    message = complaint("fit", "--config", GRIDWORLD, "--trainer.logger", json.dumps(logger))
    assert str(kept) in message
    assert "--ckpt_path" in message
    assert [path for path in folder.rglob("*") if path.is_file()] == [kept]
    assert kept.read_bytes() == b"precious"


@pytest.mark.slow
@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_going_on_from_a_run_that_is_not_there_is_refused(complaint, tmp_path, subcommand):
    message = complaint(subcommand, "--config", GRIDWORLD, "--ckpt_path", "last")
    assert message.startswith(f"ckpt_path 'last' needs a checkpoint under {tmp_path}, but there is none; ")


@pytest.mark.slow
def test_the_best_checkpoint_of_no_run_is_refused(complaint):
    assert 'ckpt_path="best"' in complaint("fit", "--config", GRIDWORLD, "--ckpt_path", "best")


@pytest.mark.slow
def test_a_checkpoint_that_is_not_there_is_named(complaint, tmp_path):
    path = str(tmp_path / "nowhere.ckpt")
    message = complaint("fit", "--config", GRIDWORLD, "--ckpt_path", path)
    assert message == f"ckpt_path must name a whole checkpoint that a Trainer wrote, got {path!r}, which is no file"


@pytest.mark.slow
@pytest.mark.parametrize("ckpt_path", ["last", "path"])
def test_a_checkpoint_that_was_cut_short_is_named(complaint, tmp_path, ckpt_path):
    path = tmp_path / "lightning_logs" / "version_7" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"pytorch-lightning_version": "2.6.0", "state_dict": {}}, path)
    path.write_bytes(path.read_bytes()[:-100])
    message = complaint("fit", "--config", GRIDWORLD, "--ckpt_path", "last" if ckpt_path == "last" else str(path))
    whole = f"ckpt_path must name a whole checkpoint that a Trainer wrote, got {str(path)!r}"
    usable = f"ckpt_path 'last' needs a checkpoint that can be used, but {path} cannot be read: "
    assert message.startswith(usable if ckpt_path == "last" else whole)


@pytest.mark.slow
def test_a_checkpoint_folder_in_use_is_not_written_into(complaint, tmp_path):
    kept = tmp_path / "elsewhere" / "last.ckpt"
    kept.parent.mkdir()
    kept.write_bytes(b"precious")
    checkpoint = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": str(kept.parent)}}
    message = complaint("fit", "--config", GRIDWORLD, "--trainer.callbacks", json.dumps([checkpoint]))
    assert str(kept) in message


@pytest.mark.slow
def test_a_precision_that_would_round_the_advantages_is_refused(complaint):
    message = complaint("fit", "--config", GRIDWORLD, "--trainer.precision", "bf16-true")
    assert message.startswith("trainer.precision must be 32-true or bf16-mixed, got bf16-true")


@pytest.mark.slow
def test_a_tokenizer_without_the_prompts_markers_is_refused(complaint):
    words = "[gigpo_lightning.environments.gridworld.gridworld_words]"
    message = complaint("fit", "--config", GRIDWORLD, MODEL + "policy.init_args.vocabulary", words)
    assert message.startswith("the policy's tokenizer must know every marker of GridworldPrompt")
    assert "does not know <did>, <act>" in message


@pytest.mark.slow
def test_a_policy_without_a_chat_template_is_refused_before_an_engine_starts(complaint):
    message = complaint("fit", "--config", GRIDWORLD, DATA + "prompt", "gigpo_lightning.prompts.text.TextPrompt")
    assert message.startswith("the policy's tokenizer, made of a vocabulary, must have a chat template for this prompt")


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_named(complaint):
    gpu = ("--trainer.accelerator", "gpu", "--trainer.devices", "1")
    message = complaint("fit", "--config", GRIDWORLD, *gpu)
    assert message.startswith("trainer.accelerator must be one that this machine has, got 'gpu': No supported gpu")
    assert "--trainer.accelerator cpu --trainer.precision 32-true" in message
    assert "docs/configuration.md" in message


@pytest.mark.slow
def test_without_vllm_the_extra_is_named(complaint, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    message = complaint("fit", "--config", GRIDWORLD)
    assert "make install" in message
    assert "EXTRA=cuda" in message


def test_a_loss_that_is_not_finite_ends_with_its_own_line(complaint, monkeypatch):
    def explode():
        raise FloatingPointError("the loss must be finite, got nan in epoch 3, minibatch 1, rows 5 to 9")

    monkeypatch.setattr(cli, "build_cli", explode)
    assert complaint("fit") == "the loss must be finite, got nan in epoch 3, minibatch 1, rows 5 to 9"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(1)])
def test_ctrl_c_ends_with_130(monkeypatch, stop):
    def interrupted():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise stop  # noqa: B904  as Lightning ends

    monkeypatch.setattr(cli, "build_cli", interrupted)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130


@pytest.mark.parametrize("minutes", [float("inf"), float("nan"), -1.0, 0.0, 1e300])
def test_a_time_that_torch_could_not_wait_for_is_refused(minutes):
    with pytest.raises(ValueError, match=r"timeout_minutes must be in \[0.1, 525600\], got"):
        FSDP2Strategy(timeout_minutes=minutes)


def test_infinity_where_a_number_must_be_finite_is_told_so():
    with pytest.raises(ValueError, match=r"timeouts.start must be >= 0.001 and finite \(seconds\), got inf"):
        ServerTimeouts(start=float("inf"))
