"""ScienceWorld, where the package and Java are installed."""

import importlib.util
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from gigpo_lightning.environments.base import Task, check_environment
from gigpo_lightning.environments.scienceworld import ScienceWorldEnvironment, ScienceWorldTasks, _settled
from gigpo_lightning.environments.splits import check_source
from gigpo_lightning.errors import RunError
from gigpo_lightning.prompts.text import CompactTextPrompt
from tests.tiny_training import train_tiny_policy

MISSING = importlib.util.find_spec("scienceworld") is None or shutil.which("java") is None
installed = pytest.mark.skipif(MISSING, reason="the extra scienceworld, or Java, is not installed")


def task(name: str = "find-living-thing", variation: int = 0) -> Task:
    return Task(task_id="one", kind=name, payload={"task": name, "variation": variation})


def test_without_java_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RunError, match=r"needs Java 8 or newer, and there is no java on the PATH; .*apt-get install"):
        ScienceWorldEnvironment().reset(options={"task": task()})


@pytest.mark.parametrize("payload", [{}, {"task": "boil"}, {"seed": 3}])
def test_a_task_without_a_name_and_a_variation_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="options must have a 'task' with task and variation"):
        ScienceWorldEnvironment().reset(options={"task": Task(task_id="one", kind="one", payload=payload)})


def test_no_variations_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="most_variations must be >= 1, got 0"):
        ScienceWorldTasks(most_variations=0)


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"split must be one of \('train', 'dev', 'test'\), got 'valid'"):
        ScienceWorldTasks().panel("valid")


@installed
@pytest.mark.slow
def test_tasks_of_several_types_keep_the_rules_of_environments() -> None:
    tasks = ScienceWorldTasks(most_variations=1).panel("train").tasks
    assert len({each.kind for each in tasks}) == 30
    for each in tasks[::7]:  # all 30 take two minutes
        check_environment(ScienceWorldEnvironment(), each)


def test_cups_of_paint_are_listed_in_one_order_and_nothing_else_is_moved() -> None:
    cups = ["\ta wood cup (containing red paint)", "\ta wood cup (containing blue paint)"]
    room = [
        "In it, you see:",
        "\tthe agent",
        *cups,
        "\ta table. On it is: a wood cup (containing nothing)",
        *cups,
        "end",
    ]
    wanted = [*room[:2], *sorted(cups), room[4], *sorted(cups), "end"]
    assert _settled("\n".join(room)) == "\n".join(wanted)


@installed
@pytest.mark.slow
def test_a_start_among_cups_of_paint_whose_order_the_simulator_draws_anew_is_one_start() -> None:
    environment = ScienceWorldEnvironment()
    starts = []
    for _ in range(4):  # of six orders
        starts.append(environment.reset(options={"task": task("find-plant", 1)}))
        environment.close()
    assert "cup (containing red paint)" in starts[0][0]
    assert len({observation for observation, _ in starts}) == len({info["anchor"] for _, info in starts}) == 1


@installed
@pytest.mark.slow
class TestTasks:
    def test_the_splits_are_the_published_ones(self) -> None:
        assert [len(ScienceWorldTasks().panel(split)) for split in ("train", "dev", "test")] == [3592, 1796, 1819]

    def test_they_keep_the_rules_of_sources(self) -> None:
        check_source(ScienceWorldTasks(most_variations=3), ("train", "dev", "test"))

    def test_the_first_tasks_are_of_all_kinds(self) -> None:
        names = [each.task_id for each in ScienceWorldTasks(["boil", "1-2"], 2).panel("dev").tasks]
        assert names == ["boil/14", "melt/14", "boil/15", "melt/15"]

    def test_a_kind_with_few_variations_leaves_the_others_theirs(self) -> None:
        names = [each.task_id for each in ScienceWorldTasks(["identify-life-stages-2", "boil"], 3).panel("dev").tasks]
        assert names[-2:] == ["boil/15", "boil/16"]

    def test_unknown_tasks_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"tasks must be among boil, .*, got 'boild'; did you mean boil?"):
            ScienceWorldTasks(["boild"]).prepare()


@pytest.fixture(scope="module")
def world() -> Iterator[ScienceWorldEnvironment]:
    environment = ScienceWorldEnvironment()
    yield environment
    environment.close()


@installed
@pytest.mark.slow
class TestEpisode:
    def test_the_instruction_says_the_task_and_what_commands_look_like(self, world: ScienceWorldEnvironment) -> None:
        observation, info = world.reset(options={"task": task()})
        assert info["instruction"].startswith("Your task is to find a(n) living thing.")
        assert "open OBJ, pick up OBJ" in info["instruction"]
        assert observation.startswith("This room is called the")

    def test_a_subgoal_is_rewarded_and_changes_the_anchor(self, world: ScienceWorldEnvironment) -> None:
        _, info = world.reset(options={"task": task()})
        assert info["anchor"].endswith("subgoals done: none")
        moves = [world.step(f"{verb} {room}") for room in ("kitchen", "outside") for verb in ("open door to", "go")]
        rewards = [reward for _, reward, *_ in moves]
        assert sum(rewards) > 0
        assert not moves[-1][4]["anchor"].endswith("subgoals done: none")

    def test_a_mistake_that_cannot_be_mended_ends_the_episode(self, world: ScienceWorldEnvironment) -> None:
        world.reset(options={"task": task()})
        _, reward, terminated, truncated, info = world.step("focus on agent")
        assert (reward, terminated, truncated, info["success"]) == (-1.0, True, False, False)

    @pytest.mark.parametrize("action", ["", "no such command", "去\nnorth", "\x00"])
    def test_senseless_commands_cost_a_step_and_nothing_else(self, world: ScienceWorldEnvironment, action: str) -> None:
        _, info = world.reset(options={"task": task()})
        _, reward, terminated, _, after = world.step(action)
        assert (reward, terminated, after["anchor"]) == (0.0, False, info["anchor"])

    def test_the_commands_that_have_an_effect_can_be_listed(self) -> None:
        environment = ScienceWorldEnvironment(simplifications="easy", list_actions=True, success_reward=10.0)
        _, info = environment.reset(options={"task": task("boil")})
        assert "look around" in info["admissible_actions"]
        assert "OBJ" not in info["instruction"]
        environment.close()

    @pytest.mark.parametrize(
        ("name", "variation", "simplifications", "message"),
        [
            ("boill", 0, "", "task must be one of ScienceWorld's, got 'boill'; did you mean boil"),
            ("boil", 30, "", r"variation must be in \[0, 29\] for the task 'boil', got 30"),
            ("boil", 0, "hard", "simplifications must be among easy, noElectricalAction, .*, got 'hard'"),
        ],
    )
    def test_what_the_game_has_not_is_refused(
        self, world: ScienceWorldEnvironment, name: str, variation: int, simplifications: str, message: str
    ) -> None:
        world.simplifications = simplifications
        with pytest.raises(ValueError, match=message):
            world.reset(options={"task": task(name, variation)})
        world.simplifications = ""

    def test_a_simulator_that_has_died_is_started_again(self, world: ScienceWorldEnvironment) -> None:
        observation, _ = world.reset(options={"task": task()})
        assert world._simulator is not None
        world._simulator._process.kill()
        world._simulator._process.wait()
        assert world.reset(options={"task": task()})[0] == observation

    def test_a_tiny_policy_trains_two_epochs(self) -> None:
        environment = ScienceWorldEnvironment()
        prompt = CompactTextPrompt(show_instruction=False)
        tasks = ScienceWorldTasks(["find-plant"], 1)
        two = {"max_steps": 2, "tasks_per_epoch": 1, "group_size": 2}  # each of its episodes starts a Java process
        epochs = train_tiny_policy(environment, tasks, ("wait", "inventory"), prompt=prompt, **two)
        assert [metrics["rollout/episode_length"] for metrics in epochs] == [2, 2]
