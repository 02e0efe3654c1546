"""A run for two tests: ``python -m tests.learning_run FOLDER ESTIMATOR``, the README's own with that estimator.

In a process of its own, where annotations are not checked: at up to 50,000 steps that was three quarters of the time.
"""

import json
import os
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import seed_everything

from gigpo_lightning.algorithm import Credit, GiGPO
from gigpo_lightning.trajectory import StepTable
from tests.documents import ROOT, blocks
from tests.forked import finish, start

# GiGPO wins half of the held-out episodes after 20 epochs, .67 after 24 and .8 after 40.
EPOCHS = {"GiGPO": 24, "ShuffledGiGPO": 20}


class ShuffledGiGPO(GiGPO):
    """The same advantages, dealt out to the wrong steps."""

    def estimate(self, table: StepTable) -> Credit:
        credit = super().estimate(table)
        order = np.random.default_rng(len(table)).permutation(len(table))
        return replace(credit, advantage=credit.advantage[order])


def held_out_success(folder: Path, estimator: str) -> tuple[float, float]:
    """Held-out success of such a run before and after."""
    log = folder / "log.txt"
    assert finish(start("tests.learning_run", [str(folder), estimator], log)) == 0, log.read_text()[-4000:]
    before, *_, after = json.loads((folder / "success.json").read_text())
    return before, after


def main() -> None:
    """Train as the README does, and write the mean held-out success of every evaluation into ``success.json``."""
    folder, estimator = Path(sys.argv[1]), sys.argv[2]
    (code,) = [block for block in blocks(ROOT / "README.md", "python") if "Trainer(" in block]
    assert "GiGPO()" in code
    whole = "max_epochs=40, check_val_every_n_epoch=20"
    assert whole in code
    epochs = EPOCHS[estimator]
    code = code.replace(whole, f"max_epochs={epochs}, check_val_every_n_epoch={epochs}")
    os.chdir(folder)
    torch.set_num_threads(1)
    seed_everything(0)
    exec(code.replace("GiGPO()", f"{estimator}()"), {"ShuffledGiGPO": ShuffledGiGPO})
    (lines,) = folder.glob("lightning_logs/version_0/evaluations.jsonl")
    success = defaultdict(list)
    for line in map(json.loads, lines.read_text().splitlines()):
        success[line["policy_version"]].append(line["success"])
    (folder / "success.json").write_text(json.dumps([float(np.mean(success[key])) for key in sorted(success)]))


if __name__ == "__main__":
    main()
