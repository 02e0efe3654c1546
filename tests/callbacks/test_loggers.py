"""A run of the command line with several loggers: each shows the configuration, the figures and the episodes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from wandb.proto.wandb_internal_pb2 import Record

from modules import GiGPOModule
from tests.forked import ROOT, finish, start

QUICK = {
    "--trainer.max_epochs": "1",
    "--trainer.check_val_every_n_epoch": "1",
    "--model.init_args.policy.init_args.hidden_size": "16",
    "--data.init_args.engine": "gigpo_lightning.rollout.TransformersEngine",
    "--data.init_args.tasks_per_epoch": "4",
    "--data.init_args.group_size": "4",
    "--data.init_args.held_out_tasks": "4",
    "--data.init_args.max_steps": "4",
}
LOGGERS = [("CSVLogger", {}), ("TensorBoardLogger", {"name": "board"}), ("WandbLogger", {"offline": True, "id": "one"})]
FIGURES = {"rollout/group", "held_out/valid_unseen/outcomes"}
EPISODES = {f"{source}/{which}" for source in ("rollout", "held_out/valid_unseen") for which in ("best", "worst")}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a run with a CSV logger, TensorBoard's and an offline one of Weights & Biases has left."""
    folder = tmp_path_factory.mktemp("loggers")
    loggers = [
        {"class_path": f"lightning.pytorch.loggers.{name}", "init_args": {"save_dir": str(folder)} | given}
        for name, given in LOGGERS
    ]
    (folder / "loggers.yaml").write_text(yaml.safe_dump({"trainer": {"logger": loggers}}))
    words = ["fit", "--config", str(ROOT / "configs/gridworld_cpu.yaml"), "--config", str(folder / "loggers.yaml")]
    words += [word for pair in QUICK.items() for word in pair]
    quiet = {"WANDB_SILENT": "true", "WANDB_DIR": str(folder), "WANDB_CACHE_DIR": str(folder / "cache")}
    assert finish(start("gigpo_lightning.cli", words, folder / "log.txt", **quiet)) == 0, (
        folder / "log.txt"
    ).read_text()
    return folder


@pytest.fixture(scope="module")
def csv(folder) -> Path:
    """The run's folder."""
    return folder / "lightning_logs" / "version_0"


@pytest.fixture(scope="module")
def board(folder) -> EventAccumulator:
    """What TensorBoard was given."""
    events = EventAccumulator(str(folder / "board" / "version_0"))
    events.Reload()
    return events


def wandb_records(path: Path) -> Iterator[Record]:
    """What an offline run of Weights & Biases holds: a log of records in parts, none across the end of a block."""
    data, block, head, record = path.read_bytes(), 1 << 15, 7, b""
    place = head
    while place + head <= len(data):
        if (left := block - place % block) < head:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + head : place + head + length]
        place += head + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


def test_csv_has_the_configuration_as_hyperparameters(csv):
    found = yaml.safe_load((csv / "hparams.yaml").read_text())
    assert found["model/policy"] == "modules.TinyPolicy"
    assert found["model/policy/hidden_size"] == 16
    assert found["trainer/callbacks/GroupFigure/every_n_epochs"] == 20
    assert found["data/group_size"] == 4


def test_tensorboard_has_the_same_and_no_list_that_would_hide_another_run_s(csv, board):
    contents = board.PluginTagToContent("hparams")
    assert contents.keys() == {metadata.SESSION_START_INFO_TAG}
    (content,) = contents.values()
    found = metadata.parse_session_start_info_plugin_data(content).hparams
    assert found.keys() == yaml.safe_load((csv / "hparams.yaml").read_text()).keys()
    assert "hp_metric" not in board.Tags()["scalars"]


def test_tensorboard_begins_with_success(board):
    first = sorted(board.Tags()["scalars"])[:2]
    assert first == ["1_success/held_out_valid_unseen", "1_success/training"]
    for ours, theirs in zip(first, ("held_out/valid_unseen", "rollout"), strict=True):
        assert [each.value for each in board.Scalars(ours)] == [
            each.value for each in board.Scalars(f"{theirs}/success_rate")
        ]


def test_tensorboard_has_figures_and_episodes(board):
    assert set(board.Tags()["images"]) == FIGURES
    assert {f"{name}/text_summary" for name in EPISODES} <= set(board.Tags()["tensors"])


def test_weights_and_biases_has_the_configuration_too(folder, csv):
    (path,) = (folder / "wandb").glob("offline-run-*-one/run-one.wandb")
    settings = [each for record in wandb_records(path) for each in record.config.update]
    assert {
        each.key: json.loads(each.value_json) for each in settings if not each.key.startswith("_")
    } == yaml.safe_load((csv / "hparams.yaml").read_text())


def test_weights_and_biases_has_figures_and_episodes(folder):
    (media,) = (folder / "wandb").glob("offline-run-*-one/files/media")
    shown = {
        kind: {re.sub(r"_\d+_\w+\..*", "", str(path.relative_to(media / kind))) for path in (media / kind).rglob("*.*")}
        for kind in ("images", "table")
    }
    assert shown["images"] == FIGURES
    assert shown["table"] >= EPISODES
    table = json.loads(next((media / "table" / "rollout").glob("best_*")).read_text())
    assert table["columns"] == [
        "task",
        "outcome",
        "step",
        "observation",
        "action",
        "valid",
        "anchor group",
        "A_E",
        "A_S",
    ]
    assert len(table["data"]) > 1


def test_the_run_s_folder_has_copies(csv):
    names = {str(path.relative_to(csv)) for kind in ("figures", "transcripts") for path in csv.glob(f"{kind}/**/*.*")}
    held_out = "held_out/valid_unseen"
    assert names >= {"figures/rollout/group/epoch_0.png", "transcripts/rollout/epoch_0.md"}
    assert names >= {f"figures/{held_out}/outcomes/version_0.png", f"transcripts/{held_out}/version_0.md"}
    picture = np.asarray(Image.open(csv / "figures/rollout/group/epoch_0.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    assert "| step | observation | action | valid |" in (csv / f"transcripts/{held_out}/version_0.md").read_text()


def test_no_process_is_left(folder):
    def is_ours(process: psutil.Process) -> bool:
        try:
            return process.environ().get("WANDB_DIR") == str(folder)
        except psutil.Error:
            return False

    assert [each.name() for each in psutil.process_iter() if is_ours(each)] == []


def test_the_module_is_made_again_of_a_checkpoint_alone(csv):
    (path,) = (csv / "checkpoints").glob("epoch*.ckpt")
    module = GiGPOModule.load_from_checkpoint(path)
    stored = torch.load(path, weights_only=True)["state_dict"]
    assert module.policy_version == 1
    assert module.make_optimizer(module.parameters()).param_groups[0]["lr"] == 4e-3
    assert all(weight.equal(stored[name]) for name, weight in module.state_dict().items())
