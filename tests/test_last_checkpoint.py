"""``--ckpt_path last`` is the furthest checkpoint of any run in the same folder; every run writes its own safely."""

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.plugins.io import TorchCheckpointIO

from callbacks import Preemption
from gigpo_lightning.cli import build_cli
from gigpo_lightning.last_checkpoint import last_checkpoint, read_progress
from modules import AtomicCheckpointIO
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data

GRIDWORLD = str(Path(__file__).resolve().parent.parent / "configs/gridworld_cpu.yaml")


class OtherCheckpointIO(TorchCheckpointIO):
    """Somebody's own."""


def write(path: Path, epochs: int, global_step: int | None = None, seconds: float = 0.0, **more) -> Path:
    """A checkpoint that says how far its run had come, and was written so many seconds after 1970."""
    path.parent.mkdir(parents=True, exist_ok=True)
    step = epochs if global_step is None else global_step
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": epochs}}}}
    held = {"pytorch-lightning_version": "2.6.0", "epoch": epochs - 1, "global_step": step, "loops": loops}
    torch.save(held | {"optimizer_states": []} | more, path)
    os.utime(path, (seconds, seconds))
    return path


def taken_from(*roots: Path, **options) -> Path | None:
    found = last_checkpoint(roots, **options)
    return found and found.path


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


def test_the_most_epochs_count_whatever_the_clock_said(tmp_path):
    assert taken_from(tmp_path, tmp_path / "nowhere") is None
    write(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", 2, seconds=90)
    furthest = write(tmp_path / "lightning_logs/version_10/checkpoints/epoch=3-step=12.ckpt", 4, seconds=50)
    write(tmp_path / "lightning_logs/version_9/checkpoints/preempted.ckpt", 3, seconds=40)
    write(tmp_path / "lightning_logs/version_10/checkpoints/last.ckpt.partial", 5, seconds=60)
    assert taken_from(tmp_path) == furthest


def test_gigpo_s_own_count_comes_before_lightning_s(tmp_path):
    furthest = write(tmp_path / "a.ckpt", 1, gigpo={"iteration": 3})
    write(tmp_path / "b.ckpt", 2, gigpo={"iteration": 2})
    assert taken_from(tmp_path) == furthest


def test_of_equal_epochs_the_most_optimizer_steps_count(tmp_path):
    furthest = write(tmp_path / "a.ckpt", 3, 31, seconds=10)
    write(tmp_path / "b.ckpt", 3, 30, seconds=20)
    assert taken_from(tmp_path) == furthest


def test_of_runs_that_are_equally_far_the_newest_file_is_taken_and_the_tie_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    newest = write(tmp_path / "a/last.ckpt", 3, seconds=20)
    other = write(tmp_path / "b/last.ckpt", 3, seconds=10)
    assert taken_from(tmp_path) == newest
    assert caplog.messages == [
        f"ckpt_path 'last' is {newest} (3 epochs done, global step 3); as far had come {other}, but its file is the "
        "newest"
    ]


def test_one_run_s_files_are_no_tie_and_another_run_is_named(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    best = write(tmp_path / "a/last.ckpt", 3, seconds=20)
    write(tmp_path / "a/preempted.ckpt", 3, seconds=10)
    other = write(tmp_path / "b/last.ckpt", 2)
    assert taken_from(tmp_path) == best
    assert caplog.messages == [
        f"ckpt_path 'last' is {best} (3 epochs done, global step 3); the next furthest is {other} (2 epochs done, "
        "global step 2)"
    ]


def damaged(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-100])
    return path


def without_a_step(path: Path) -> Path:
    torch.save({"pytorch-lightning_version": "2.6.0", "epoch": 9}, path)
    return path


def weights_only(path: Path) -> Path:
    torch.save({"epoch": 9, "global_step": 9, "state_dict": {}}, path)
    return path


@pytest.mark.parametrize("spoil", [damaged, without_a_step, weights_only])
def test_what_cannot_be_gone_on_from_is_passed_over_with_a_warning(tmp_path, caplog, spoil):
    usable = write(tmp_path / "a.ckpt", 1)
    spoilt = spoil(write(tmp_path / "b.ckpt", 9))
    assert taken_from(tmp_path, to_go_on=True) == usable
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith(f"ckpt_path 'last' passes over a checkpoint: {spoilt} ")


def test_weights_alone_can_be_evaluated(tmp_path):
    write(tmp_path / "a.ckpt", 1)
    spoilt = weights_only(write(tmp_path / "b.ckpt", 9))
    assert taken_from(tmp_path) == spoilt


def test_the_next_best_is_taken_where_a_look_at_the_best_finds_it_spoilt(tmp_path):
    second = write(tmp_path / "a.ckpt", 1)
    write(tmp_path / "b.ckpt", 9)

    def check(path: Path) -> None:
        if path != second:
            raise ValueError(f"{path} is spoilt")

    assert taken_from(tmp_path, check=check) == second
    second.unlink()
    with pytest.raises(ValueError, match=r"needs a checkpoint that can be used, but .*b.ckpt is spoilt"):
        taken_from(tmp_path, check=check)


def test_a_folder_is_a_checkpoint_once_its_last_file_is_there(tmp_path):
    file = write(tmp_path / "a.ckpt", 3)
    write(tmp_path / "b.ckpt" / "__0_0.distcp", 5)
    assert taken_from(tmp_path) == file
    write(tmp_path / "b.ckpt" / "meta.pt", 5)
    assert taken_from(tmp_path) == tmp_path / "b.ckpt"


@pytest.mark.parametrize("module", ["gigpo", "boring"])
def test_a_real_run_s_checkpoint_says_how_far_it_had_come(tmp_path, module):
    trainer = quiet_trainer(tmp_path, ScriptedSync(), max_epochs=2, limit_val_batches=0)
    if module == "gigpo":
        trainer.fit(ours := tiny_module(), walking_data(random_walk(ours)))
    else:
        trainer = quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0, limit_train_batches=1)
        trainer.fit(BoringModel(), BoringDataModule())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    progress = read_progress(tmp_path / "a.ckpt")
    assert (progress.epochs, progress.global_step, progress.resumable) == (2, 2, True)


@pytest.mark.slow
@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_every_subcommand_gets_the_path_that_last_means(taken, tmp_path, subcommand):
    path = write(tmp_path / "lightning_logs/version_4/checkpoints/last.ckpt", 3)
    assert taken(tmp_path, "last", subcommand=subcommand) == str(path)


@pytest.mark.slow
def test_one_with_a_flipped_byte_is_passed_over_though_it_can_be_read(taken, tmp_path, caplog):
    usable = write(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", 3)
    flipped = write(tmp_path / "lightning_logs/version_1/checkpoints/last.ckpt", 4, weights=torch.zeros(1000))
    content = bytearray(flipped.read_bytes())
    content[content.index(bytes(4000)) + 2000] = 1
    flipped.write_bytes(content)
    assert read_progress(flipped).epochs == 4
    assert taken(tmp_path, "last") == str(usable)
    assert f"ckpt_path 'last' passes over a checkpoint: {flipped} is damaged" in caplog.text


@pytest.mark.slow
def test_a_logger_and_checkpoints_elsewhere_are_searched_too(taken, tmp_path):
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path / "logs")]
    path = write(tmp_path / "logs/lightning_logs/version_4/checkpoints/last.ckpt", 3)
    assert taken(tmp_path / "root", "last", *logger) == str(path)
    callback = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": str(tmp_path / "kept")}}
    checkpoint = ["--trainer.callbacks", json.dumps([callback])]
    path = write(tmp_path / "kept/last.ckpt", 4)
    assert taken(tmp_path / "root", "last", *logger, *checkpoint) == str(path)


@pytest.mark.slow
@pytest.mark.parametrize("ckpt_path", ["best", "hpc", "s3://bucket/a.ckpt"])
def test_what_else_is_named_is_lightning_s_to_find(taken, tmp_path, ckpt_path):
    write(tmp_path / "lightning_logs/version_4/checkpoints/last.ckpt", 3)
    assert taken(tmp_path, ckpt_path) == ckpt_path


@pytest.mark.slow
def test_a_path_is_taken_as_it_is(taken, tmp_path):
    newest = write(tmp_path / "lightning_logs/version_4/checkpoints/last.ckpt", 3)
    other = write(tmp_path / "elsewhere.ckpt", 2)
    assert taken(tmp_path, str(other)) == str(other) != str(newest)


def parts(*arguments: str) -> tuple[list[type], list[type]]:
    """How a run's Trainer writes checkpoints, and its callbacks for SIGTERM."""
    trainer = build_cli(["fit", "--config", GRIDWORLD, "--dry_run", *arguments]).trainer
    return type(trainer.strategy.checkpoint_io), [each for each in trainer.callbacks if isinstance(each, Preemption)]


@pytest.mark.slow
def test_every_run_writes_whole_checkpoints_and_answers_sigterm():
    io, (preemption,) = parts()
    assert io is AtomicCheckpointIO
    assert preemption.file_name == "preempted.ckpt"


@pytest.mark.slow
def test_what_the_user_lists_takes_the_place_of_ours():
    own = ["--trainer.plugins+=tests.test_last_checkpoint.OtherCheckpointIO"]
    own += ["--trainer.callbacks+=callbacks.Preemption", "--trainer.callbacks.file_name", "mine.ckpt"]
    io, (preemption,) = parts(*own)
    assert io.__name__ == "OtherCheckpointIO"
    assert preemption.file_name == "mine.ckpt"
