"""The best of stored episodes as rows to be learnt."""

from pathlib import Path
from typing import Any

import pytest

from gigpo_lightning.imitation import BestEpisodes, DemonstrationSource, StoredEpisodes
from gigpo_lightning.rollout.store import write_trajectories
from gigpo_lightning.trajectory import Step, Trajectory, TrajectoryGroup
from tests.episodes import group, step, trajectory
from tests.imitation.words import Words

WORDS = Words()
LOOK = WORDS.encode("look </s>")
PROMPT = WORDS.encode("in a room")


def turn(reward: float = 0.0, **fields: Any) -> Step:
    return step(PROMPT, LOOK, **({"reward": reward, "response": "look"} | fields))


def won(*steps: Step, index: int = 0) -> Trajectory:
    return trajectory(*steps, episode_index=index, success=True)


LOST = trajectory(turn())


def file_of(folder: Path, *groups: TrajectoryGroup) -> str:
    path = folder / "predict_train.parquet"
    write_trajectories(path, groups)
    return str(path)


def replies(source: StoredEpisodes, held_out: bool = False) -> list[list[str]]:
    episodes = source.episodes(WORDS, held_out=held_out, seed=0)
    return [[WORDS.exact(row.reply_ids) for row in episode] for episode in episodes]


def test_it_is_a_source_of_demonstrations() -> None:
    assert isinstance(StoredEpisodes("trajectories"), DemonstrationSource)


def test_the_best_success_of_each_task_is_kept() -> None:
    short, long = won(turn(1.0), index=1), won(turn(), turn(1.0), index=2)
    richest = won(turn(2.0), turn(), turn(), index=3)
    kept = BestEpisodes(per_task=2).keep(group(LOST, long, short, richest))
    assert [each.episode_index for each in kept] == [3, 1]


def test_episodes_below_a_return_are_left_out() -> None:
    kept = BestEpisodes(per_task=None, success=False, min_return=1.0).keep(group(LOST, won(turn(1.0), index=1)))
    assert [each.episode_index for each in kept] == [1]


def test_tokens_are_learnt_as_they_were_written(tmp_path: Path) -> None:
    source = StoredEpisodes(file_of(tmp_path, group(LOST, won(turn(), turn(1.0), index=1))), held_out_share=0.0)
    assert replies(source) == [["look </s>", "look </s>"]]


def test_a_conversation_that_grows_is_one_row(tmp_path: Path) -> None:
    grown = (*PROMPT, *LOOK, *WORDS.encode("a door"))
    episode = won(turn(), step(grown, LOOK, response="look"))
    source = StoredEpisodes(file_of(tmp_path, group(episode)), held_out_share=0.0)
    assert replies(source) == [["look </s> a door look </s>"]]


@pytest.mark.parametrize("bad", [{"valid_action": False}, {"completion_ids": WORDS.encode("look")}])
def test_invalid_replies_and_replies_without_an_end_are_left_out(tmp_path: Path, bad: dict[str, Any]) -> None:
    fields = {"prompt_ids": PROMPT, "completion_ids": LOOK, "response": "look"} | bad
    source = StoredEpisodes(file_of(tmp_path, group(won(step(**fields), turn(1.0)))), held_out_share=0.0)
    assert replies(source) == [["look </s>"]]


def test_an_episode_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    source = StoredEpisodes(file_of(tmp_path, group(won(turn(response="a door")))))
    with pytest.raises(ValueError, match=r"predict_train\.parquet, task 'task', step 0: completion_ids must read 'a d"):
        replies(source)


def test_a_filter_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"keep must leave an episode of .* to learn from, but BestEpisodes leaves"):
        replies(StoredEpisodes(file_of(tmp_path, group(LOST))))


def test_a_folder_stands_for_its_files(tmp_path: Path) -> None:
    file_of(tmp_path, group(won(turn(1.0))))
    assert len(replies(StoredEpisodes(str(tmp_path), held_out_share=0.0))) == 1


def test_a_folder_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"files must name a folder with files \*\.parquet, got "):
        StoredEpisodes(str(tmp_path)).prepare()


def test_attempts_at_one_task_are_held_out_together(tmp_path: Path) -> None:
    other = won(step(WORDS.encode("in a hall"), LOOK, response="look"), index=0)
    groups = (group(won(turn(1.0)), won(turn(1.0), index=1)), group(other))
    source = StoredEpisodes(file_of(tmp_path, *groups), BestEpisodes(per_task=None), held_out_share=0.5)
    assert sorted((len(replies(source)), len(replies(source, held_out=True)))) == [1, 2]


@pytest.mark.parametrize("arguments", [{"per_task": 0}, {"min_return": float("nan")}])
def test_a_number_out_of_its_range_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be "):
        BestEpisodes(**arguments)
