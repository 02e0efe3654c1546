"""A run that goes on says what it does otherwise than its checkpoint's run, and config.yaml says what is used."""

import logging
from pathlib import Path

import pytest
import torch
import yaml

from gigpo_lightning.changed_configuration import changes, check_classes
from gigpo_lightning.cli import build_cli, checked_configuration
from gigpo_lightning.last_checkpoint import read_progress

GRIDWORLD = str(Path(__file__).resolve().parent.parent / "configs/gridworld_cpu.yaml")
RATE = "--model.init_args.optimizer.init_args.lr"
OPTIMIZER = "model.init_args.optimizer"


def nested(key: str, value: object) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def said(key: str, then: object, now: object, *kept: str) -> list[str]:
    return [str(change) for change in changes(nested(key, then), nested(key, now), kept)]


def test_equal_configurations_differ_in_nothing():
    assert said("data.init_args.group_size", 8, 8) == []


@pytest.mark.parametrize(
    "key",
    [
        "data.init_args.group_size",
        "data.init_args.environment.init_args.size",
        "data.init_args.prompt.init_args.history",
        "data.init_args.sampling.temperature",
        "model.init_args.credit.init_args.discount",
        "model.init_args.loss.clip_low",
        "model.init_args.max_grad_norm",
        "trainer.precision",
    ],
)
def test_what_takes_effect_is_said_with_both_values(key):
    assert said(key, 4, 8) == [f"{key} was 4 and is 8: takes effect"]


def test_what_the_checkpoint_decides_is_said_to_have_no_effect():
    key = f"{OPTIMIZER}.init_args.lr"
    (line,) = said(key, 0.1, 0.2, OPTIMIZER)
    assert line.startswith(f"{key} was 0.1 and is 0.2: has no effect, the checkpoint's is used; --optimizer_settings ")
    assert said(key, 0.1, 0.2) == [f"{key} was 0.1 and is 0.2: takes effect"]


@pytest.mark.parametrize("key", ["seed_everything", "data.init_args.seed", "model.init_args.policy.init_args.seed"])
def test_what_takes_effect_in_part_says_in_which(key):
    (line,) = said(key, 0, 1)
    assert "the checkpoint's" in line or "tasks, sampling noise and minibatches" in line


@pytest.mark.parametrize("key", ["ckpt_path", "trainer.default_root_dir", "trainer.logger", "optimizer_settings"])
def test_what_every_run_says_anew_is_no_difference(key):
    assert said(key, "a", "b") == []


def test_of_another_class_only_the_class_is_listed():
    then = {"class_path": "a.GiGPO", "init_args": {"discount": 0.9, "grouping": None}}
    now = {"class_path": "a.GRPO", "init_args": {"scale_by_std": True}}
    assert said("model.init_args.credit", then, now) == [
        "model.init_args.credit.class_path was 'a.GiGPO' and is 'a.GRPO': takes effect"
    ]


def test_a_list_of_classes_is_compared_place_by_place():
    then = [{"class_path": "a.A"}, {"class_path": "a.B", "init_args": {"n": 1}}]
    now = [{"class_path": "a.A"}, {"class_path": "a.B", "init_args": {"n": 2}}, {"class_path": "a.C"}]
    assert [line.split(" was")[0] for line in said("trainer.callbacks", then, now)] == [
        "trainer.callbacks.1.init_args.n",
        "trainer.callbacks.2.class_path",
    ]


def test_another_optimizer_is_refused_always_and_another_scheduler_unless_asked_for():
    key = f"{OPTIMIZER}.class_path"
    with pytest.raises(ValueError, match=rf"^{key} must be the checkpoint's 'AdamW', got 'SGD': an optimizer cannot"):
        check_classes(changes(nested(key, "AdamW"), nested(key, "SGD")))
    key = "model.init_args.lr_scheduler.class_path"
    then, now = nested(key, "StepLR"), nested(key, "CosineAnnealingLR")
    with pytest.raises(ValueError, match=r"set it back, or take the present one with --optimizer_settings config"):
        check_classes(changes(then, now, ["model.init_args.lr_scheduler"]))
    check_classes(changes(then, now))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with a run of one epoch, at the rate of the shipped configuration."""
    folder = tmp_path_factory.mktemp("runs")
    fit(folder, 1)
    return folder


def fit(root: Path, epochs: int, *options: str):
    """Train in this process, without vLLM."""
    words = ["fit", "--config", GRIDWORLD, "--data.engine", "gigpo_lightning.rollout.TransformersEngine"]
    words += ["--data.init_args.tasks_per_epoch", "2", "--data.init_args.group_size", "2", "--data.init_args.workers"]
    words += ["0", "--trainer.limit_val_batches", "0", "--trainer.num_sanity_val_steps", "0"]
    words += ["--trainer.max_epochs", str(epochs), "--trainer.default_root_dir", str(root)]
    return build_cli([*words, "--trainer.enable_progress_bar", "false", *options])


def written(cli) -> dict:
    return yaml.safe_load((Path(cli.trainer.log_dir) / "config.yaml").read_text())


def used(cli) -> float:
    return cli.trainer.optimizers[0].param_groups[0]["lr"]


def first(root: Path) -> list[str]:
    return ["--ckpt_path", str(root / "lightning_logs/version_0/checkpoints/last.ckpt")]


@pytest.mark.slow
def test_a_checkpoint_holds_its_run_s_configuration(root):
    held = read_progress(Path(first(root)[1])).run_configuration()
    assert held == yaml.safe_load((root / "lightning_logs/version_0/config.yaml").read_text())
    assert held["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.004


@pytest.mark.slow
def test_a_changed_rate_is_said_to_have_no_effect_and_is_not_written_down(root, caplog):
    caplog.set_level(logging.INFO, "gigpo_lightning")
    cli = fit(root, 2, *first(root), RATE, "1e-9", "--model.init_args.max_grad_norm", "0.5")
    lines = [line for line in caplog.messages if line.startswith("other than in the checkpoint's run: ")]
    assert [line.split(": ")[1].split(" was")[0] for line in lines] == [
        "model.init_args.max_grad_norm",
        "model.init_args.optimizer.init_args.lr",
        "trainer.max_epochs",
    ]
    assert used(cli) == 0.004
    arguments = written(cli)["model"]["init_args"]
    assert arguments["optimizer"]["init_args"]["lr"] == 0.004
    assert arguments["max_grad_norm"] == cli.model.max_grad_norm == 0.5
    newest = Path(cli.trainer.log_dir) / "checkpoints/last.ckpt"
    assert read_progress(newest).run_configuration() == written(cli)


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [["--optimizer_settings", "config"], ["--trainer.callbacks+=callbacks.OptimizerSettings"]],
)
def test_the_new_rate_is_taken_and_written_down_where_that_is_asked_for(root, asked):
    cli = fit(root, 2, *first(root), RATE, "1e-9", *asked)
    assert used(cli) == 1e-9
    assert written(cli)["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1e-9


@pytest.mark.slow
def test_the_flag_counts_too_where_the_checkpoint_lies_in_a_store(root):
    address = f"file://{first(root)[1]}"
    cli = fit(root, 2, "--ckpt_path", address, RATE, "1e-9", "--optimizer_settings", "config")
    assert used(cli) == 1e-9


@pytest.mark.slow
def test_without_the_configuration_the_optimizer_says_what_differs(root, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    held = torch.load(first(root)[1], weights_only=True)
    del held["configuration"]
    torch.save(held, old := tmp_path / "old.ckpt")
    cli = fit(tmp_path, 2, "--ckpt_path", str(old), RATE, "1e-9")
    assert used(cli) == 0.004
    unknown = f"the configuration of the run of {old} is not known: what differs from it cannot be said"
    assert unknown in caplog.messages
    assert any("lr was 0.004 in the checkpoint and is 1e-09" in line for line in caplog.messages)


@pytest.mark.slow
def test_a_sweep_s_run_can_be_gone_on_with_whatever_the_flag_is_called(tmp_path):
    assert "optimizer_settings" not in checked_configuration(
        ["--config", GRIDWORLD, f"--trainer.default_root_dir={tmp_path}"]
    )
