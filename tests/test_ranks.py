"""Several ranks train as one process would: the same minibatches, the same sums, the same weights; and fail as one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.environments.gridworld import gridworld_words
from gigpo_lightning.prompts.gridworld import gridworld_markers
from modules import BehaviourCloningModule, GiGPOModule, PretrainedPolicy, TinyPolicy
from modules.checkpoint_weights import trained_policy
from tests import forked
from tests.forked import places

ROOT = Path(__file__).resolve().parent.parent

# Sums over ranks are taken in another order than over micro-batches: a relative error of about 1e-7 in a gradient,
# which AdamW, dividing by its root mean square, passes on to a step of 1e-3; two epochs are eight steps. Without the
# shared counts, or the factor of the number of ranks, weights are off by more than 1e-4.
TOLERANCE = {"rtol": 0.0, "atol": 1e-7}


def launch(launcher: str, folder: Path, *words: str) -> tuple[int, str]:
    """Have the ranks started by a launcher; the exit code, and what was said."""
    folder.mkdir(exist_ok=True)
    if launcher == "Lightning":  # the first rank starts the others, by the name of its program
        log = folder / "log.txt"
        return forked.finish(forked.start("tests.ranks_run", [str(folder), *words], log, is_main=True)), log.read_text()
    torchrun = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")
    command = [sys.executable, "-m", *torchrun, "tests.ranks_run", str(folder), *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200, cwd=ROOT)
    return result.returncode, result.stderr


def job(folder: Path, devices: int, strategy: str, *options: str) -> tuple[int, str]:
    """Start the ranks here, as a launcher does; the largest exit code, and what they said."""
    folder.mkdir(exist_ok=True)
    words, log = [str(folder), str(devices), strategy, *options], folder / "log.txt"
    environments = places(devices) if devices > 1 else [{}]
    ranks = [forked.start("tests.ranks_run", words, log, **place) for place in environments]
    return max(forked.finish(rank) for rank in ranks), log.read_text()


def run(folder: Path, devices: int, strategy: str, *options: str, launcher: str = "") -> dict[str, Any]:
    """What all ranks together have kept."""
    words = (str(devices), strategy, *options)
    code, said = launch(launcher, folder, *words) if launcher else job(folder, devices, strategy, *options)
    assert code == 0, said[-4000:]
    kept: dict[str, Any] = torch.load(folder / "kept.pt", weights_only=True)
    return kept


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process has kept that computes a row a step: the ranks share beginnings, which changes no weight."""
    return run(tmp_path_factory.mktemp("alone"), 1, "auto", "--plain")


@pytest.fixture(scope="module", params=["ddp by Lightning", "fsdp2", "ddp by torchrun"])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What two ranks have kept, and where."""
    folder = tmp_path_factory.mktemp("together")
    strategy, _, launcher = request.param.partition(" by ")
    return run(folder, 2, strategy, launcher=launcher), folder


@pytest.mark.slow
def test_two_ranks_give_the_weights_of_one_process_that_shares_nothing(
    together: tuple[dict[str, Any], Path], alone: dict[str, Any]
):
    both, _ = together
    (many, few), (all_steps,) = ([rank["steps"] for rank in kept["ranks"]] for kept in (both, alone))
    assert many == [3 * steps for steps in few]  # the first rank has three times the steps of the second
    assert [one + other for one, other in zip(many, few, strict=True)] == all_steps
    one, other = both["ranks"]
    assert one["updates"] == other["updates"] == alone["ranks"][0]["updates"]
    assert one["backward_passes"] == other["backward_passes"]
    torch.testing.assert_close(both["weights"], alone["weights"], **TOLERANCE)
    assert both["losses"] == pytest.approx(alone["losses"], abs=1e-6)
    shared, plain = both["tokens"], alone["tokens"]  # of the last epoch, on all ranks
    assert shared["update/distinct_tokens"] == plain["update/distinct_tokens"]
    assert shared["update/distinct_tokens"] <= shared["update/tokens"] < plain["update/tokens"]


@pytest.mark.slow
def test_sharded_adapters_learn_what_whole_ones_do(tmp_path: Path):
    both, alone = (run(tmp_path / name, ranks, name, "--lora") for name, ranks in (("fsdp2", 2), ("auto", 1)))
    torch.testing.assert_close(both["weights"], alone["weights"], **TOLERANCE)
    assert both["losses"] == pytest.approx(alone["losses"], abs=1e-6)


@pytest.mark.slow
def test_sharded_ranks_and_one_process_go_on_from_what_the_other_has_kept_and_another_policy_does_not(tmp_path: Path):
    whole = run(tmp_path / "whole", 1, "auto", "--lora")
    kept = tmp_path / "kept.ckpt"
    run(tmp_path / "first", 2, "fsdp2", "--lora", "--epochs", "1", "--checkpoint", str(kept))
    names = torch.load(kept, weights_only=True)["state_dict"].keys()
    assert names
    assert all("lora_" in name for name in names)  # neither the weights beside them nor a reference
    rest = run(tmp_path / "rest", 1, "auto", "--lora", "--resume", str(kept))
    torch.testing.assert_close(rest["weights"], whole["weights"], **TOLERANCE)
    # The other way round the optimizer's numbers of its parameters are not their places in the module.
    run(tmp_path / "again", 1, "auto", "--lora", "--epochs", "1", "--checkpoint", str(kept))
    rest = run(tmp_path / "sharded", 2, "fsdp2", "--lora", "--resume", str(kept))
    torch.testing.assert_close(rest["weights"], whole["weights"], **TOLERANCE)
    code, errors = job(tmp_path / "other", 1, "fsdp2", "--lora", "--width", "64", "--resume", str(kept))
    assert code != 0
    assert "must name a checkpoint of this policy; in this one" in errors


@pytest.mark.slow
def test_two_ranks_write_a_folder_that_one_goes_on_from_and_a_damaged_one_is_refused(
    tmp_path: Path, alone: dict[str, Any]
):
    kept = tmp_path / "kept.ckpt"
    first = run(tmp_path / "first", 2, "fsdp2_folder", "--epochs", "1", "--checkpoint", str(kept))
    files = sorted(path.name for path in kept.iterdir())
    assert files == [".metadata", "__0_0.distcp", "__1_0.distcp", "meta.pt"]
    source = TinyPolicy([gridworld_words, gridworld_markers], hidden_size=32, max_length=64)
    exported = dict(trained_policy(GiGPOModule(source, GiGPO()), kept).named_weights())  # by one process, whole
    assert all(torch.equal(exported[name], weight) for name, weight in first["weights"].items())
    rest = run(tmp_path / "rest", 1, "fsdp2_folder", "--resume", str(kept))
    torch.testing.assert_close(rest["weights"], alone["weights"], **TOLERANCE)
    content = bytearray((kept / "__1_0.distcp").read_bytes())  # the second rank's share to look at
    content[len(content) // 2] ^= 1
    (kept / "__1_0.distcp").write_bytes(content)
    code, errors = job(tmp_path / "damaged", 2, "fsdp2_folder", "--resume", str(kept))
    assert code != 0
    assert "in which __1_0.distcp is damaged" in errors


@pytest.mark.slow
def test_lightning_s_first_fsdp_gives_its_blocks_weights_and_norm(tmp_path: Path):
    log = tmp_path / "log.txt"
    ranks = [forked.start("tests.fsdp_run", [], log, **place) for place in places(2)]
    assert [forked.finish(rank) for rank in ranks] == [0, 0], log.read_text()[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize(("failing", "strategy"), [(0, "ddp"), (1, "fsdp2")])
def test_a_rank_that_raises_ends_the_whole_job_with_its_own_message(strategy: str, failing: int, tmp_path: Path):
    # A hang would end at the timeout of a collective, half an hour later.
    code, errors = launch("Lightning", tmp_path, "2", strategy, "--failing", str(failing))
    assert code != 0
    assert "argument must be what it is not: this rank has failed" in errors


@pytest.mark.slow
def test_the_carried_groups_of_all_ranks_are_dealt_out_and_begun_again(tmp_path: Path):
    kept = tmp_path / "kept.ckpt"
    run(tmp_path / "first", 2, "ddp", "--carry", "--epochs", "2", "--checkpoint", str(kept))
    carried = torch.load(kept, weights_only=True)["RolloutDataModule"]["carried"]
    assert len(carried) == len(set(map(tuple, carried))) > 1  # one at least of each rank
    ends = [
        run(tmp_path / f"rest {number}", 2, "ddp", "--carry", "--epochs", "3", "--resume", str(kept))
        for number in range(2)
    ]
    assert ends[0]["ranks"] == ends[1]["ranks"]
    assert all(torch.equal(ends[0]["weights"][name], weight) for name, weight in ends[1]["weights"].items())


@pytest.mark.slow
def test_one_rank_exports_what_all_of_them_have(together: tuple[dict[str, Any], Path]):
    both, folder = together
    exported = dict(PretrainedPolicy(str(folder / "exports" / "epoch_1")).build().named_weights())
    assert all(torch.equal(exported[name], weight) for name, weight in both["weights"].items())
    (size,) = (path.stat().st_size for path in (folder / "exports" / "epoch_1").glob("*.safetensors"))
    once = sum(weight.numel() * 4 for name, weight in both["weights"].items() if name != "lm_head.weight")
    assert once <= size < once + 20_000  # the tied one is written once


@pytest.mark.slow
def test_one_rank_shows_what_all_of_them_have_played(together: tuple[dict[str, Any], Path]):
    both, folder = together
    (written,) = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(written))
    events.Reload()
    for epoch, histogram in enumerate(events.Histograms("credit/step_advantage")):
        assert histogram.histogram_value.num == sum(rank["steps"][epoch] for rank in both["ranks"])
    assert "rollout/group" in events.Tags()["images"]


def test_fsdp2_refuses_a_module_that_leaves_its_weights_whole(tmp_path: Path):
    module = BehaviourCloningModule(TinyPolicy([lambda: ["word"]], hidden_size=16))
    trainer = Trainer(
        accelerator="cpu", devices=1, strategy="fsdp2", logger=False, max_steps=3, default_root_dir=tmp_path
    )
    needs = "trainer.strategy fsdp2 needs a module that shards its policy, .* got BehaviourCloningModule; use ddp"
    try:
        with pytest.raises(ValueError, match=needs):
            trainer.fit(module, [0, 1, 2])
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_an_estimator_that_must_see_all_episodes_is_refused_on_several_ranks(tmp_path: Path):
    code, errors = job(tmp_path, 2, "ddp", "--whole_batch")
    assert code != 0
    assert "trainer.num_nodes must be 1 with ReinforcePlusPlus, got 2" in errors
