"""Two sharded ranks by the command line, each with an engine of its own."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.forked import console_script, gigpo


@pytest.mark.slow
@pytest.mark.vllm
def test_two_sharded_ranks_with_an_engine_each_go_on_as_one_process(tmp_path: Path):
    common = ["fit", "--config", "configs/gridworld_cpu.yaml", "--trainer.check_val_every_n_epoch", "1"]
    both = ["--trainer.strategy", "fsdp2", "--trainer.devices", "2", "--trainer.max_epochs", "1"]
    result = console_script(tmp_path, *common, *both)  # which starts itself once more
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stderr.count("epoch 0: success") == 1  # what every rank would say is said once
    (folder,) = (tmp_path / "lightning_logs").iterdir()  # that of all ranks
    lines = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    panel = json.loads((folder / "manifest.json").read_text())["panels"]["valid_unseen"]["tasks"]
    played = Counter((line["policy_version"], line["task_id"]) for line in lines)
    assert set(played.values()) == {1}
    assert len(played) == 2 * panel
    assert f"95 % paired bootstrap over {panel} games" in result.stderr
    ranks = [pq.read_table(folder / "trajectories" / f"epoch_0.{rank}.parquet") for rank in range(2)]
    tasks = [set(rank["task_id"].to_pylist()) for rank in ranks]
    assert [len(each) for each in tasks] == [8, 8]
    assert not tasks[0] & tasks[1]
    events = EventAccumulator(str(folder))
    events.Reload()
    assert max(event.value for event in events.Scalars("sync/max_abs_logprob_error")) < 1e-4
    (success,) = (event.value for event in events.Scalars("rollout/success_rate"))
    episodes = {(rank, row["trajectory_id"]): row["success"] for rank in range(2) for row in ranks[rank].to_pylist()}
    assert success == pytest.approx(np.mean(list(episodes.values())))
    result = gigpo(tmp_path, *common, "--trainer.max_epochs", "2", "--ckpt_path", "last")
    assert result.returncode == 0, result.stderr[-4000:]
    assert "1 epoch done" in result.stderr
    assert "epoch 1: success" in result.stderr
