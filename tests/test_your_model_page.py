"""The tables of docs/your_model.md, and the sums of the commands beside them."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from gigpo_lightning.cli import build_cli
from gigpo_lightning.memory import Training, known_shapes, update_memory
from tests.documents import ROOT, Desk, commands
from tests.scripts import loaded

PAGE = ROOT / "docs" / "your_model.md"
TEXT = PAGE.read_text()
COMMANDS = [words for words in commands("gigpo", PAGE) if "--device_gib" in words][1:]
ROWS = {  # what each of the commands is a row of: a section, and a model
    0: ("## A CPU", "Qwen2.5-0.5B-Instruct"),
    1: ("## One GPU of 24 GB", "Qwen2.5-3B-Instruct"),
    2: ("## One GPU of 24 GB", "Qwen2.5-0.5B-Instruct"),
    3: ("## One GPU of 80 GB", "Qwen3-1.7B"),
    4: ("## Eight GPUs of 80 GB", "Qwen2.5-7B-Instruct"),
}


def tables() -> Any:
    with loaded(ROOT / "docs" / "your_model_tables.py") as module:
        return module


def test_the_tables_are_what_the_script_prints() -> None:
    script = tables()
    for name in script.HARDWARE:
        assert script.table(name) in TEXT


def test_every_model_is_in_every_table() -> None:
    for model in known_shapes():
        assert TEXT.count(f"| {model.partition('/')[2]} |") == 4


@pytest.mark.slow
@pytest.mark.parametrize("number", ROWS)
def test_a_command_s_dry_run_has_the_sum_of_its_row(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    section, model = ROWS[number]
    part = TEXT[TEXT.index(section) :]
    (row,) = [line for line in part.partition("\n## ")[0].splitlines() if line.startswith(f"| {model} |")]
    Desk(PAGE, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gigpo"])
    with caplog.at_level(logging.INFO, "gigpo_lightning"):
        build_cli(COMMANDS[number])
    said = [record for record in caplog.records if record.name == "gigpo_lightning.cli"]
    assert not [record for record in said if record.levelno == logging.WARNING]
    assert f"{json.loads(said[-1].getMessage())['predicted_gib']:.1f}" == row.split("|")[-3].strip()


def test_each_command_is_tried() -> None:
    assert len(COMMANDS) == len(ROWS)


def test_a_thousand_tokens_take_what_the_page_says() -> None:
    for model, strategy, said in (("1.5B", "auto", "0.31 GiB for 1,000 tokens"), ("7B", "fsdp2", "0.49 of 7B")):
        assert said in TEXT
        less, more = (
            update_memory(
                known_shapes()[f"Qwen/Qwen2.5-{model}-Instruct"],
                Training(strategy=strategy, ranks=4, micro_batch_tokens=tokens, repeats_heads=True),
            )["activations"]
            for tokens in (32000, 33000)
        )
        assert f"{more - less:.2f}" in said
