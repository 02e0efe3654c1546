"""``configs/gridworld_chat_cpu.yaml`` learns, and each of its prompts is the last one, the reply and what is new."""

from itertools import pairwise
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gigpo_lightning.rollout.store import read_trajectories
from gigpo_lightning.trajectory import Trajectory
from tests.forked import gigpo

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
EPOCHS = 16
OPTIONS = ("--trainer.max_epochs", str(EPOCHS), "--trainer.check_val_every_n_epoch", "50")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    result = gigpo(folder, "fit", "--config", "configs/gridworld_chat_cpu.yaml", *OPTIONS)
    assert result.returncode == 0, result.stderr[-4000:]
    return folder / "lightning_logs" / "version_0"


def episodes(run_folder: Path, *epochs: int) -> list[Trajectory]:
    paths = (run_folder / "trajectories" / f"epoch_{epoch}.parquet" for epoch in epochs)
    return [each for path in paths for group in read_trajectories(path)[0] for each in group.trajectories]


def success(run_folder: Path, *epochs: int) -> float:
    played = episodes(run_folder, *epochs)
    return sum(episode.success for episode in played) / len(played)


def test_a_tiny_policy_learns_the_gridworld_as_a_conversation(run_folder: Path) -> None:
    assert success(run_folder, 0, 1) < 0.15
    assert success(run_folder, EPOCHS - 3, EPOCHS - 2, EPOCHS - 1) > 0.2


def test_every_later_prompt_begins_with_the_last_prompt_and_the_reply_as_sampled(run_folder: Path) -> None:
    played = episodes(run_folder, *range(EPOCHS))
    later = 0
    for episode in played:
        for before, after in pairwise(episode.steps):
            shown = (*before.prompt_ids, *before.completion_ids)
            assert after.prompt_ids[: len(shown)] == shown
            later += 1
    assert later > 1000


def test_updates_compute_hardly_more_than_the_distinct_tokens(run_folder: Path) -> None:
    events = EventAccumulator(str(run_folder)).Reload()
    computed, distinct, sharing = (
        [event.value for event in events.Scalars(f"update/{name}")] for name in ("tokens", "distinct_tokens", "sharing")
    )
    assert len(computed) == EPOCHS
    assert all(one <= 1.1 * other for one, other in zip(computed, distinct, strict=True))
    assert min(sharing) > 1.5
