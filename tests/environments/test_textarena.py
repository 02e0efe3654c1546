"""TextArena's games of one player, where the package is installed."""

import random
import re
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gigpo_lightning.environments.base import Task, check_environment
from gigpo_lightning.environments.seeded_tasks import SeededTasks
from gigpo_lightning.environments.textarena import TextArenaEnvironment, _canonical, single_player_ids
from gigpo_lightning.errors import RunError
from gigpo_lightning.prompts.text import CompactTextPrompt
from tests.extras import installed
from tests.tiny_training import train_tiny_policy

LAKE, TOWERS = "FrozenLake-v0", "TowerOfHanoi-v0"
REASONS = (
    "cannot begin: LookupError: .*python -m nltk.downloader words",
    "cannot begin: ValueError: OpenRouter API key not found.* It asks a hosted model",
    "ended with the reward '.*', which is no number: a defect of the game",
    "cannot begin: SyntaxError: ",  # in Python 3.11
)


def play(env_id: str, *moves: str, seed: int = 3, **options: Any) -> list[tuple[str, float, bool, dict[str, Any]]]:
    """The answers to ``reset`` and to each move, until the end."""
    environment = TextArenaEnvironment(env_id, **options)
    observation, info = environment.reset(options={"task": Task(task_id="one", kind="one", payload={"seed": seed})})
    answers = [(observation, 0.0, False, info)]
    for move in moves:
        observation, reward, terminated, _, info = environment.step(move)
        answers.append((observation, reward, terminated, info))
    return answers


def test_a_state_is_the_same_wherever_it_lies_in_memory() -> None:
    class Board:
        def __init__(self, cells: list[int]) -> None:
            self.cells, self.names, self.turn = cells, {"b", "a"}, len(cells)

    def state(cells: list[int]) -> str:
        return repr(_canonical({2: Board(cells), 1: np.array(cells)}, frozenset({"turn"})))

    assert state([1, 2]) == state([1, 2]) != state([2, 1])


def test_ignored_names_and_tables_do_not_make_states_different() -> None:
    one, other = ({"turn": turn, "words": [turn] * 5_000, "board": 7} for turn in (1, 2))
    assert _canonical(one, frozenset({"turn"})) == _canonical(other, frozenset({"turn"}))


def test_a_state_that_holds_itself_comes_to_an_end() -> None:
    state: dict[str, Any] = {"board": 7}
    state["self"] = state
    assert "..." in repr(_canonical(state, frozenset()))


def test_the_process_s_own_generators_are_put_back() -> None:
    environment = TextArenaEnvironment(LAKE)
    random.seed(7)
    np.random.seed(7)
    with environment._own_generators(3):  # by itself: checks of annotations draw from Python's generator, too
        random.random(), np.random.random()
    drawn = random.random(), np.random.random()
    random.seed(7)
    np.random.seed(7)
    assert drawn == (random.random(), np.random.random())


def test_a_game_goes_on_with_its_own_generators() -> None:
    environment = TextArenaEnvironment(LAKE)
    with environment._own_generators(3):
        first = random.random(), np.random.random()
    with environment._own_generators(None):
        second = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    assert [first, second] == [(random.random(), np.random.random()) for _ in range(2)]


def test_without_the_package_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textarena", None)
    with pytest.raises(RunError, match=r"packages of the extra 'textarena'. Install them with uv pip install"):
        TextArenaEnvironment(LAKE).warm_up()


def test_a_task_without_a_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="options must have a 'task' whose payload has a seed"):
        TextArenaEnvironment(LAKE).reset(options={"task": Task(task_id="one", kind="one")})


@pytest.fixture(scope="module")
def package() -> ModuleType:
    return installed("textarena", "textarena")


@pytest.mark.usefixtures("package")
class TestInstalled:
    @pytest.mark.slow
    def test_at_least_fifty_games_of_one_player_keep_the_rules_and_the_others_say_why_not(self) -> None:
        said = {}
        for env_id in single_player_ids():
            task = Task(task_id=env_id, kind=env_id, payload={"seed": 3, "id": env_id})
            try:
                check_environment(TextArenaEnvironment(), task)
            except RunError as error:
                said[env_id] = str(error)
        unknown = {env_id: text for env_id, text in said.items() if not any(re.search(r, text) for r in REASONS)}
        assert not unknown
        assert len(single_player_ids()) - len(said) >= 50

    def test_the_rules_are_the_instruction_and_the_board_is_the_observation(self) -> None:
        ((observation, _, _, info),) = play(TOWERS)
        assert "Tower of Hanoi" in info["instruction"]
        assert observation.splitlines()[1:] == ["A: [3, 2, 1]", "B: []", "C: []", "."]

    def test_a_game_without_a_board_shows_its_rules(self) -> None:
        ((observation, _, _, info),) = play("Bandit-v0")
        assert observation == info["instruction"]

    def test_a_win_is_rewarded_and_ends_the_episode(self) -> None:
        *_, (observation, reward, terminated, info) = play(TOWERS, "A C", "A B", "C B", "A C", "B A", "B C", "A C")
        assert (reward, terminated, info["success"]) == (1.0, True, True)
        assert info["metrics"] == {"ended_by_invalid_move": 0.0}
        assert observation.endswith("Congratulations! You solved the Tower of Hanoi puzzle.")

    def test_success_can_be_a_part_of_a_win(self) -> None:
        *_, (_, reward, _, info) = play("PegJump-v0", "no", "no", success_reward=0.05)
        assert 0.05 < reward < 1
        assert info["success"]

    def test_too_many_invalid_moves_end_the_episode(self) -> None:
        *_, (first, _, going, _), (_, _, over, info) = play(TOWERS, "up", "up")
        assert "invalid move" in first
        assert (going, over) == (False, True)
        assert info["metrics"] == {"ended_by_invalid_move": 1.0}

    def test_a_state_that_is_reached_again_has_its_anchor_again(self) -> None:
        anchors = [info["anchor"] for *_, info in play(TOWERS, "A C", "C A", "A B")]
        assert anchors[0] == anchors[2]
        assert len(set(anchors)) == 3

    def test_a_game_that_has_once_been_played_invalidly_is_in_another_state(self) -> None:
        (*_, before), (*_, after) = play(TOWERS, "up")
        assert before["anchor"] != after["anchor"]

    def test_the_state_may_count_turns(self) -> None:
        anchors = [info["anchor"] for *_, info in play("LightsOut-v0", "0 0", "0 0", state_ignored=())]
        assert len(set(anchors)) == 3
        anchors = [info["anchor"] for *_, info in play("LightsOut-v0", "0 0", "0 0")]
        assert anchors[0] == anchors[2]

    def test_the_training_view_of_a_game_is_the_same(self) -> None:
        one, other = (play(name, "A C") for name in (TOWERS, f"{TOWERS}-train"))
        assert [answer[0] for answer in one] == [answer[0] for answer in other]

    def test_other_seeds_are_other_games(self) -> None:
        assert len({play("Minesweeper-v0", "3 3", seed=seed)[1][0] for seed in (1, 1, 2)}) == 2

    def test_a_game_s_draws_do_not_depend_on_those_of_others(self) -> None:
        environment = TextArenaEnvironment("2048-v0")
        task = Task(task_id="one", kind="one", payload={"seed": 3})
        environment.reset(options={"task": task})
        alone = environment.step("up")[0], environment.step("left")[0]
        environment.reset(options={"task": task})
        between = environment.step("up")[0]
        random.seed(8)
        assert alone == (between, environment.step("left")[0])

    def test_a_game_that_prints_prints_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        play("LogicPuzzle-v0", "no")
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        ("env_id", "message"),
        [
            (None, "env_id must be given to the environment or by the task's id"),
            ("FrozenLak-v0", "env_id must be one of TextArena's .*, got 'FrozenLak-v0'; did you mean FrozenLake-v0"),
            ("Chess-v0", "env_id must be a game of one player, got 'Chess-v0'"),
        ],
    )
    def test_what_is_no_game_of_one_player_is_refused(self, env_id: str | None, message: str) -> None:
        task = Task(task_id="one", kind="one", payload={"seed": 3})
        with pytest.raises(ValueError, match=message):
            TextArenaEnvironment(env_id).reset(options={"task": task})

    def test_an_unknown_setting_is_refused(self) -> None:
        with pytest.raises(RunError, match=r"'FrozenLake-v0' cannot begin: TypeError: .*'holes'"):
            play(LAKE, settings={"holes": 3})

    def test_a_tiny_policy_trains_two_epochs(self) -> None:
        tasks = SeededTasks({"train": [0, 1]}, ids=[LAKE, "2048-v0-ultra-easy"])
        prompt = CompactTextPrompt(show_instruction=False)
        moves = ("up", "down", "left", "right")
        epochs = train_tiny_policy(TextArenaEnvironment(), tasks, moves, prompt=prompt)
        assert all(metrics["rollout/episode_length"] > 1 for metrics in epochs)


def test_tasks_of_several_games_are_listed_by_id() -> None:
    tasks = SeededTasks({"train": [0, 1]}, ids=[LAKE, TOWERS]).panel("train").tasks
    assert [task.kind for task in tasks] == [LAKE, TOWERS] * 2
