"""Lines of libraries that nobody can act on are left out, and no others."""

import importlib.util
import logging
import os
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loops import fit_loop, prediction_loop
from lightning.pytorch.trainer.connectors import checkpoint_connector
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from gigpo_lightning.engines.vllm_device import binding_memory_quietly
from gigpo_lightning.quiet import leave_out_noise, without_line

EVAL_MODE = "Found 398 module(s) in eval mode at the start of training."
LOGGERS = ("lightning.pytorch.utilities.rank_zero", "vllm.triton_utils.importing")


@pytest.fixture
def lines(monkeypatch):
    """What is logged and warned of from now on; the filters of the test go with it."""
    monkeypatch.delenv("GIGPO_LOG_LEVEL", raising=False)
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # a test before may have had another
    said = []

    class Said(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())

    handler, before = Said(), {name: list(logging.getLogger(name).filters) for name in LOGGERS}
    for name in LOGGERS:
        monkeypatch.setattr(logging.getLogger(name), "disabled", False)
        logging.getLogger(name).filters.clear()  # a test that calls the command line leaves some
        monkeypatch.setattr(logging.getLogger(name), "isEnabledFor", lambda level: True)  # vLLM was told otherwise
        logging.getLogger(name).addHandler(handler)
    with warnings.catch_warnings(action="always"):
        monkeypatch.setattr(warnings, "showwarning", lambda message, *rest: said.append(str(message)))
        yield said
    for name, filters in before.items():
        logging.getLogger(name).removeHandler(handler)
        logging.getLogger(name).filters[:] = filters


def make_noise(folder):
    Trainer(accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False)
    rank_zero_info("Restoring states from the checkpoint path at last.ckpt")
    rank_zero_info("Restored all states from the checkpoint at last.ckpt")
    rank_zero_info("Loaded model weights from the checkpoint at last.ckpt")
    rank_zero_warn(EVAL_MODE)
    rank_zero_warn("predict returned None if it was on purpose, ignore this warning...")
    logging.getLogger("vllm.triton_utils.importing").warning("Triton is installed, but doesn't include CPU backend.")


def test_nothing_is_said_that_nobody_can_act_on(lines, tmp_path):
    leave_out_noise()
    make_noise(tmp_path)
    assert lines == []


def test_other_lines_of_the_same_libraries_stay(lines):
    leave_out_noise()
    rank_zero_info("GPU available: True (cuda), used: False")
    rank_zero_warn("GPU available but not used.")
    assert lines == ["GPU available: True (cuda), used: False", "GPU available but not used."]


def test_a_user_who_wants_every_line_gets_it(lines, tmp_path, monkeypatch):
    monkeypatch.setenv("GIGPO_LOG_LEVEL", "DEBUG")
    leave_out_noise()
    make_noise(tmp_path)
    for part in ("Tip: ", "GPU available: False", "TPU available: False", "Restoring states", EVAL_MODE, "Triton is"):
        assert [line for line in lines if part in line], part


def test_the_libraries_still_write_what_is_left_out():
    assert "module(s) in eval mode" in Path(fit_loop.__file__).read_text()
    assert "predict returned None" in Path(prediction_loop.__file__).read_text()
    for part in ("Restoring states from the checkpoint path", "Restored all states", "Loaded model weights"):
        assert part in Path(checkpoint_connector.__file__).read_text()
    if vllm := importlib.util.find_spec("vllm"):
        lines = Path(str(vllm.origin)).with_name("triton_utils") / "importing.py"
        assert '"Triton is installed' in lines.read_text()


def test_of_what_compiled_code_writes_one_line_is_left_out(capfd):
    with without_line("NUMA binding"):
        os.write(2, b"before\n[W] NUMA binding: Using MEMBIND\nafter\n")
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "before\nafter\nlater\n"


def test_an_error_does_not_swallow_what_was_written(capfd):
    with pytest.raises(FileNotFoundError), without_line("NUMA binding"):
        os.write(2, b"cannot bind\n") and os.stat("/nowhere")
    assert capfd.readouterr().err == "cannot bind\n"


def test_an_engine_binds_memory_without_a_word(capfd, monkeypatch):
    bound = []

    def bind(nodes):
        bound.append(nodes)
        os.write(2, b"[W] NUMA binding: Using MEMBIND\n")

    monkeypatch.delenv("GIGPO_LOG_LEVEL", raising=False)
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # a test before may have had another
    monkeypatch.setattr(torch.ops._C, "init_cpu_memory_env", bind, raising=False)
    with binding_memory_quietly():
        torch.ops._C.init_cpu_memory_env([0])
    assert (bound, capfd.readouterr().err) == ([[0]], "")
    torch.ops._C.init_cpu_memory_env([1])
    assert "NUMA" in capfd.readouterr().err
