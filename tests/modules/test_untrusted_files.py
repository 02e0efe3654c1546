"""Whatever file is read, code in it is not run: it is refused, in one line that names the file."""

import os
import pickle

import numpy as np
import pytest
import torch

from gigpo_lightning.engines.vllm_server.plugin import _tensors
from modules import AtomicCheckpointIO, PretrainedPolicy, TinyPolicy
from modules.checkpoint_io import check_for_another_reader


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.fixture
def trap(tmp_path):
    """The object, which must not have run in the end."""
    yield Trap(tmp_path / "RAN")
    assert not (tmp_path / "RAN").exists()


def refused(action, *names):
    with pytest.raises(ValueError, match=r"\w") as error:
        action()
    assert all(name in str(error.value) for name in names)


@pytest.mark.parametrize("read", [AtomicCheckpointIO().load_checkpoint, check_for_another_reader])
def test_a_checkpoint(tmp_path, trap, read):
    torch.save({"pytorch-lightning_version": "2.6.0", "trap": trap}, tmp_path / "last.ckpt")
    refused(lambda: read(tmp_path / "last.ckpt"), "last.ckpt', which cannot be read")


def test_a_checkpoint_of_a_store(trap):
    import fsspec

    with fsspec.open("memory://store/last.ckpt", "wb") as file:
        torch.save({"pytorch-lightning_version": "2.6.0", "trap": trap}, file)
    refused(
        lambda: AtomicCheckpointIO().load_checkpoint("memory://store/last.ckpt"), "last.ckpt', which cannot be read"
    )


def test_a_setting_of_torch_s_that_runs_checkpoints_is_not_heard(tmp_path, trap, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"pytorch-lightning_version": "2.6.0", "trap": trap}, tmp_path / "last.ckpt")
    refused(lambda: AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt"), "last.ckpt', which cannot be read")


def test_nobody_can_ask_for_it(tmp_path, trap):
    torch.save({"pytorch-lightning_version": "2.6.0", "trap": trap}, tmp_path / "last.ckpt")
    refused(
        lambda: AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=False),
        "weights_only must not be False",
    )


def test_a_folder_that_lightning_s_own_strategy_would_run(tmp_path, trap):
    (tmp_path / "last.ckpt").mkdir()
    (tmp_path / "last.ckpt" / ".metadata").write_bytes(pickle.dumps(trap))
    refused(lambda: check_for_another_reader(tmp_path / "last.ckpt"), "which is a folder: only trainer.strategy fsdp2")


@pytest.fixture
def policy(tmp_path):
    """A policy's folder."""
    TinyPolicy([lambda: ["word"]], hidden_size=16).build().save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_a_policy_in_pickles(policy, trap):
    (policy / "model.safetensors").unlink()
    torch.save({"trap": trap}, policy / "pytorch_model.bin")
    refused(lambda: PretrainedPolicy(str(policy)).build(), str(policy))


def test_a_policy_in_pickles_that_say_they_are_not(policy, trap):
    (policy / "model.safetensors").write_bytes(pickle.dumps(trap))
    refused(lambda: PretrainedPolicy(str(policy)).build(), str(policy))


def test_a_policy_that_was_ruined(policy):
    content = bytearray((policy / "model.safetensors").read_bytes())
    content[-4:] = np.float32("nan").tobytes()
    (policy / "model.safetensors").write_bytes(content)
    refused(lambda: PretrainedPolicy(str(policy)).build(), str(policy), "in which model.norm.weight is not")


def test_an_array_of_a_floor_plan(tmp_path, trap):
    np.save(tmp_path / "plan.npy", np.array([trap], dtype=object), allow_pickle=True)
    refused(lambda: np.load(tmp_path / "plan.npy"), "allow_pickle=False")


def test_weights_for_a_server(tmp_path, trap):
    (tmp_path / "part.safetensors").write_bytes(pickle.dumps(trap))
    with pytest.raises(Exception, match="header"):
        list(_tensors(str(tmp_path / "part.safetensors")))
