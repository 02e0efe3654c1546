"""The runs in a generated shop, cut short: from the expert to a policy, and from the policy that is shipped."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from modules import PretrainedPolicy
from tests.forked import gigpo
from tests.test_cli import ROOT, of_demonstrations


@pytest.fixture(scope="module")
def small_shop(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that make a config sell a few products from a folder of the test's."""
    folder = tmp_path_factory.mktemp("webshop") / "shop"
    files = {"products": folder / "items_shuffle.json", "attributes": folder / "items_ins_v2.json"}
    options = ["--data.init_args.tasks.init_args.generated.num_products", "60"]
    for owner in ("environment", "tasks"):
        for name, file in files.items():
            options += [f"--data.init_args.{owner}.init_args.catalogue.init_args.{name}", str(file)]
    return options


@pytest.mark.vllm
@pytest.mark.slow
def test_the_shipped_policy_is_trained(small_shop: list[str], tmp_path: Path) -> None:
    options = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]
    options += ["--data.init_args.tasks_per_epoch", "2", "--data.init_args.group_size", "4"]
    result = gigpo(tmp_path, "fit", "--config", "configs/webshop/tiny_cpu.yaml", *options, *small_shop)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "95 % paired bootstrap over" in result.stderr
    steps = pq.read_table(tmp_path / "lightning_logs/version_0/trajectories/epoch_0.parquet")
    # The policy that is shipped writes actions, not noise.
    assert np.mean(steps["valid_action"].to_numpy()) > 0.6


@pytest.mark.slow
def test_the_warm_start_writes_a_policy_that_the_run_could_load(small_shop: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    options = [
        "--model.init_args.output_folder",
        str(folder),
        "--data.init_args.demonstrations.init_args.held_out_tasks",
        "2",
    ]
    options += ["--data.init_args.demonstrations.init_args.episodes_per_task", "1"]
    result = gigpo(
        tmp_path, "fit", "--config", "configs/webshop/warm_start.yaml", *options, *of_demonstrations(small_shop)
    )
    assert result.returncode == 0, result.stderr[-4000:]
    made, shipped = (PretrainedPolicy(str(each)).build() for each in (folder, ROOT / "configs/webshop/tiny_policy"))
    shapes = [{name: value.shape for name, value in policy.state_dict().items()} for policy in (made, shipped)]
    assert shapes[0] == shapes[1]
    assert made.tokenizer.tokenizer.get_vocab() == shipped.tokenizer.tokenizer.get_vocab()
