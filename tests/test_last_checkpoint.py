"""``--ckpt_path last`` is the newest checkpoint of any run in the same folder, and every run writes its own safely."""

import json
import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.plugins.io import TorchCheckpointIO

from callbacks import Preemption
from gigpo_lightning.cli import build_cli, newest_checkpoint
from modules import AtomicCheckpointIO

GRIDWORLD = str(Path(__file__).resolve().parent.parent / "configs/gridworld_cpu.yaml")


class OtherCheckpointIO(TorchCheckpointIO):
    """Somebody's own."""


def write(path: Path, seconds: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"pytorch-lightning_version": "2.6.0"}, path)
    os.utime(path, (seconds, seconds))
    return path


@pytest.fixture
def taken(monkeypatch):
    """Parses the command line, and returns the path that the Trainer would get."""

    class Taken(Exception):
        pass

    prepare = LightningCLI._prepare_subcommand_kwargs

    def stop(self, subcommand):
        raise Taken(prepare(self, subcommand)["ckpt_path"])

    monkeypatch.setattr(LightningCLI, "_prepare_subcommand_kwargs", stop)

    def ask(root: Path, ckpt_path: str, *arguments: str, subcommand: str = "fit") -> str:
        folder = ["--trainer.default_root_dir", str(root)]
        with pytest.raises(Taken) as found:
            build_cli([subcommand, "--config", GRIDWORLD, *folder, "--ckpt_path", ckpt_path, *arguments])
        return found.value.args[0]

    return ask


def test_the_newest_of_all_versions_is_taken_and_no_partial_one(tmp_path):
    assert newest_checkpoint([tmp_path, tmp_path / "nowhere"]) is None
    write(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", 30)
    newest = write(tmp_path / "lightning_logs/version_10/checkpoints/epoch=3-step=12.ckpt", 50)
    write(tmp_path / "lightning_logs/version_9/checkpoints/last.ckpt", 40)
    write(tmp_path / "lightning_logs/version_10/checkpoints/last.ckpt.partial", 60)
    assert newest_checkpoint([tmp_path]) == newest


def test_a_folder_is_a_checkpoint_once_its_last_file_is_there(tmp_path):
    file = write(tmp_path / "a.ckpt", 30)
    write(tmp_path / "b.ckpt" / "__0_0.distcp", 50)
    assert newest_checkpoint([tmp_path]) == file
    write(tmp_path / "b.ckpt" / "meta.pt", 50)
    assert newest_checkpoint([tmp_path]) == tmp_path / "b.ckpt"


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_every_subcommand_gets_the_path_that_last_means(taken, tmp_path, subcommand):
    path = write(tmp_path / "lightning_logs/version_4/checkpoints/last.ckpt", 30)
    assert taken(tmp_path, "last", subcommand=subcommand) == str(path)


def test_a_logger_and_checkpoints_elsewhere_are_searched_too(taken, tmp_path):
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path / "logs")]
    path = write(tmp_path / "logs/lightning_logs/version_4/checkpoints/last.ckpt", 30)
    assert taken(tmp_path / "root", "last", *logger) == str(path)
    callback = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": str(tmp_path / "kept")}}
    checkpoint = ["--trainer.callbacks", json.dumps([callback])]
    path = write(tmp_path / "kept/last.ckpt", 40)
    assert taken(tmp_path / "root", "last", *logger, *checkpoint) == str(path)


@pytest.mark.parametrize("ckpt_path", ["best", "hpc", "s3://bucket/a.ckpt"])
def test_what_else_is_named_is_lightning_s_to_find(taken, tmp_path, ckpt_path):
    write(tmp_path / "lightning_logs/version_4/checkpoints/last.ckpt", 30)
    assert taken(tmp_path, ckpt_path) == ckpt_path


def test_a_path_is_taken_as_it_is(taken, tmp_path):
    newest = write(tmp_path / "lightning_logs/version_4/checkpoints/last.ckpt", 30)
    other = write(tmp_path / "elsewhere.ckpt", 20)
    assert taken(tmp_path, str(other)) == str(other) != str(newest)


def parts(*arguments: str) -> tuple[list[type], list[type]]:
    """How a run's Trainer writes checkpoints, and its callbacks for SIGTERM."""
    trainer = build_cli(["--config", GRIDWORLD, *arguments], run=False).trainer
    return type(trainer.strategy.checkpoint_io), [each for each in trainer.callbacks if isinstance(each, Preemption)]


def test_every_run_writes_whole_checkpoints_and_answers_sigterm():
    io, (preemption,) = parts()
    assert io is AtomicCheckpointIO
    assert preemption.file_name == "preempted.ckpt"


def test_what_the_user_lists_takes_the_place_of_ours():
    own = ["--trainer.plugins+=tests.test_last_checkpoint.OtherCheckpointIO"]
    own += ["--trainer.callbacks+=callbacks.Preemption", "--trainer.callbacks.file_name", "mine.ckpt"]
    io, (preemption,) = parts(*own)
    assert io.__name__ == "OtherCheckpointIO"
    assert preemption.file_name == "mine.ckpt"
