"""The table that ends ``gigpo validate`` and ``gigpo test``."""

from io import StringIO

from rich.console import Console

from gigpo_lightning.evaluation_table import evaluation_table

RESULTS = [
    {"held_out/seen/return/dataloader_idx_0": 13 / 3, "held_out/seen/success_rate/dataloader_idx_0": 13 / 30},
    {"held_out/unseen/near/success_rate/dataloader_idx_1": 1.0, "held_out/unseen/success_rate/dataloader_idx_1": 0.5},
]


def test_success_comes_first_and_no_number_is_longer_than_it_means():
    console = Console(file=StringIO(), width=100)
    console.print(evaluation_table(RESULTS, "test"))
    rows = [line.split() for line in console.file.getvalue().splitlines() if "held_out" in line]
    assert rows == [
        ["held_out/seen/success_rate", ".433"],
        ["held_out/unseen/success_rate", ".500"],
        ["held_out/unseen/near/success_rate", "1.000"],
        ["held_out/seen/return", "4.333"],
    ]
