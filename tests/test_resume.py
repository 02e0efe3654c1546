"""A run that is killed or stopped at any moment, and goes on, is the run that was not: to the last bit."""

import random
import re
from pathlib import Path

import pytest
import torch

from gigpo_lightning.text import count
from tests.forked import finish, places, start
from tests.resume_run import assert_same_run, saboteur, scalars, versions

ROOT = Path(__file__).resolve().parent.parent
GRIDWORLD = str(ROOT / "configs/gridworld_cpu.yaml")
EPOCHS = 4

# Small, without vLLM, and with every kind of state that a run can have.
QUICK = {
    "--trainer.max_epochs": str(EPOCHS),
    "--trainer.check_val_every_n_epoch": "2",
    "--model.init_args.policy.init_args.hidden_size": "16",
    "--model.init_args.credit": "tests.resume_run.RememberingGiGPO",
    "--model.init_args.lr_scheduler": "torch.optim.lr_scheduler.LinearLR",
    "--model.init_args.lr_scheduler.init_args.total_iters": str(EPOCHS),
    "--data.init_args.environment": "tests.resume_run.SlipperyGridworld",
    "--data.init_args.engine": "gigpo_lightning.rollout.TransformersEngine",
    "--data.init_args.deterministic": "true",
    "--data.init_args.tasks_per_epoch": "4",
    "--data.init_args.group_size": "4",
    "--data.init_args.max_steps": "4",
    "--data.init_args.minibatch_size": "24",
}
OPTIONS = [word for pair in QUICK.items() for word in pair]


class Runs:
    """The quick gridworld in a folder."""

    def words(self, root: Path, arguments: tuple[str, ...]) -> list[str]:
        first, *rest = arguments if arguments[:1] in (("validate",), ("fit",)) else ("fit", *arguments)
        return [first, "--config", GRIDWORLD, *OPTIONS, "--trainer.default_root_dir", str(root), *rest]

    def __call__(self, root: Path, *arguments: str) -> int:
        """Run it to its end; the exit code, negative for a signal."""
        return finish(self.start(root, *arguments))

    def start(self, root: Path, *arguments: str, **variables: str):
        """Begin it."""
        return start("gigpo_lightning.cli", self.words(root, arguments), root / "log.txt", **variables)


@pytest.fixture(scope="module")
def run() -> Runs:
    return Runs()


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory) -> Path:
    """The run that nobody disturbs."""
    root = tmp_path_factory.mktemp("undisturbed")
    assert run(root) == 0, (root / "log.txt").read_text()[-4000:]
    assert sum(name == "rollout/return" for name, _ in scalars(root)) == EPOCHS
    assert ("held_out/valid_unseen/success_rate", 0) in scalars(root)
    return root


def go_through(run: Runs, root: Path, moments: list[list[str]], exit_code: int) -> str:
    """Break a run off at one moment after the other, going on from the last checkpoint each time; its whole log."""
    for index, moment in enumerate(moments):
        assert run(root, *moment, *(["--ckpt_path", "last"] if index else [])) == exit_code
    assert run(root, "--ckpt_path", "last") == 0
    return (root / "log.txt").read_text()


@pytest.mark.slow
def test_two_runs_of_one_command_are_equal(run, undisturbed, tmp_path):
    assert run(tmp_path) == 0
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_is_the_run_that_was_not(run, undisturbed, tmp_path):
    moments = [
        saboteur("rollout", 1, 20),
        saboteur("update", 1),
        saboteur("evaluation", 1),
        saboteur("checkpoint", 1),  # last.ckpt is a link to the epoch's before
        saboteur("checkpoint", 2),
        saboteur("rollout", 3, 5),
    ]
    log = go_through(run, tmp_path, moments, exit_code=-9)
    assert len(list(tmp_path.rglob("*.partial"))) == 2
    assert_same_run(tmp_path, undisturbed)
    # What was evaluated before the first update is remembered, and not evaluated again.
    assert "before (version 0)" in log.splitlines()[-4]
    assert len(re.findall(r" at version 0(?:,|\n)", log)) == 1


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_goes_on_until_it_is_done(run, undisturbed, tmp_path):
    moments, killed, exit_code = random.Random(0), [], -9
    while exit_code:
        going_on = ["--ckpt_path", "last"] if list(tmp_path.rglob("*.ckpt")) else []
        process = run.start(tmp_path, *going_on)
        if len(killed) < 3:
            killed.append(moments.uniform(0.5, 4.0))
            process.join(killed[-1])
            process.kill()
        exit_code = finish(process)
        assert exit_code in (0, -9), (killed, (tmp_path / "log.txt").read_text()[-4000:])
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_run_that_is_stopped_again_and_again_is_the_run_that_was_not(run, undisturbed, tmp_path):
    moments = [
        saboteur("rollout", 0, 3, kill=False),  # nothing has been learnt
        saboteur("rollout", 0, 20, kill=False),  # nor in a run that has gone on
        saboteur("update", 0, kill=False),
        saboteur("evaluation", 1, kill=False),
        saboteur("rollout", 2, 5, kill=False),
    ]
    log = go_through(run, tmp_path, moments, exit_code=143)
    assert_same_run(tmp_path, undisturbed)
    files = [folder / "checkpoints" / "preempted.ckpt" for folder in versions(tmp_path)]
    assert [file.is_file() for file in files] == [True] * 5 + [False]
    done = [torch.load(file, weights_only=True)["gigpo"]["iteration"] for file in files[:5]]
    assert done == [0, 0, 1, 2, 2]  # a rollout is dropped; an update and an evaluation are finished
    for file, epochs in zip(files, done, strict=False):
        said = count(epochs, "epoch")
        assert f"stopped by SIGTERM, {said} done; go on with --ckpt_path last, or {file}\n" in log
        assert f"going on from {file}: {said} done, global step" in log


@pytest.mark.slow
def test_a_run_that_is_stopped_in_its_last_epoch_is_done(run, undisturbed, tmp_path):
    assert run(tmp_path, *saboteur("update", EPOCHS - 1, kill=False)) == 0
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_run_that_was_done_plays_nothing_when_it_goes_on(run, undisturbed, tmp_path):
    checkpoint = versions(undisturbed)[0] / "checkpoints" / "last.ckpt"
    # The saboteur strikes at the first request to the engine.
    assert run(tmp_path, *saboteur("rollout", EPOCHS), "--ckpt_path", str(checkpoint)) == 0
    assert "before (version 0)" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
def test_an_evaluation_that_is_stopped_ends_at_once(run, tmp_path):
    assert run(tmp_path, "validate", *saboteur("evaluation", 0, kill=False)) == 143
    assert "held_out/valid_unseen/success_rate" not in (tmp_path / "log.txt").read_text()
    assert list(tmp_path.rglob("*.ckpt")) == []


@pytest.mark.slow
def test_of_two_processes_one_is_stopped_and_both_go_on(run, tmp_path):
    """Sharded, on two ranks whose environments draw from generators of their own."""

    def run_both(name: str, *more: str) -> list[int]:
        ranks = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "fsdp2", *more]
        ranks += ["--model.init_args.credit", "gigpo_lightning.algorithm.GiGPO"]  # one that remembers is refused
        (tmp_path / name).mkdir(exist_ok=True)
        processes = [run.start(tmp_path / name, *ranks, **place) for place in places(2)]
        return [finish(process) for process in processes]

    assert run_both("undisturbed") == [0, 0], (tmp_path / "undisturbed" / "log.txt").read_text()[-4000:]
    assert run_both("stopped", *saboteur("rollout", 1, 3, kill=False, rank=1)) == [143, 143]
    assert run_both("stopped", "--ckpt_path", "last") == [0, 0]
    (file,) = (tmp_path / "stopped").rglob("preempted.ckpt")
    one, other = torch.load(file, weights_only=True)["gigpo"]["random_states"]
    assert not torch.equal(one["torch"], other["torch"])
    assert_same_run(tmp_path / "stopped", tmp_path / "undisturbed")
