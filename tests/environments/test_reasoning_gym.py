"""reasoning-gym's data sets, where the package is installed; by hand, with a data set of the test's own, elsewhere."""

import sys
from types import ModuleType
from typing import Any

import pytest

from gigpo_lightning.environments import reasoning_gym as adapter
from gigpo_lightning.environments.base import Task, check_environment
from gigpo_lightning.environments.reasoning_gym import (
    ReasoningGymEnvironment,
    ReasoningGymTasks,
    num_levels,
    usable_datasets,
)
from gigpo_lightning.environments.seeded_tasks import SeededTasks
from gigpo_lightning.environments.splits import check_source
from gigpo_lightning.errors import RunError
from tests.extras import installed
from tests.tiny_training import train_tiny_policy

SPLITS = {"train": [0, 9], "valid": [10, 11]}
LEGS = {"dataset": "leg_counting"}


def asked(payload: dict[str, Any] | None = None, **options: Any) -> tuple[ReasoningGymEnvironment, str, dict[str, Any]]:
    environment = ReasoningGymEnvironment(**options)
    task = Task(task_id="one", kind="one", payload={"seed": 3, **(payload or LEGS)})
    return environment, *environment.reset(options={"task": task})


class Sum:
    """A data set of one question, which scores an answer by its distance from 4, and cannot read words."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"question": "2 + 2 ?", "answer": "4"}

    def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
        return max(0.0, 1.0 - abs(int(answer) - int(entry["answer"])) / 4)


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every data set is ``Sum``."""
    monkeypatch.setattr(adapter, "_make", lambda *_: Sum())
    adapter._ask.cache_clear()
    yield
    adapter._ask.cache_clear()


@pytest.mark.usefixtures("sums")
class TestAttempts:
    def test_the_question_is_the_first_observation_and_the_instruction(self) -> None:
        _, observation, info = asked()
        assert (observation, info["instruction"], info["success"]) == ("2 + 2 ?", "2 + 2 ?", False)

    def test_a_right_answer_ends_the_episode(self) -> None:
        environment, _, _ = asked(attempts=3)
        observation, reward, terminated, truncated, info = environment.step(" 4\n")
        assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
        assert observation == "This answer is right."

    def test_a_wrong_answer_leaves_the_other_attempts(self) -> None:
        environment, _, _ = asked(attempts=2)
        observation, reward, terminated, _, info = environment.step("6")
        assert (reward, terminated, info["success"]) == (0.5, False, False)
        assert observation == "This answer is not right, score 0.50 of 1. Attempt 2 of 2."
        assert environment.step("8")[2:4] == (True, False)

    def test_the_return_is_the_best_score(self) -> None:
        environment, _, _ = asked(attempts=4, success_reward=10.0)
        assert [environment.step(answer)[1] for answer in ("7", "8", "5", "4")] == [2.5, 0.0, 5.0, 2.5]

    def test_lower_scores_need_not_be_rewarded(self) -> None:
        environment, _, _ = asked(attempts=2, partial_credit=False)
        assert [environment.step(answer)[1] for answer in ("5", "4")] == [0.0, 1.0]

    def test_a_lower_score_can_be_right(self) -> None:
        environment, _, _ = asked(success_score=0.75)
        _, reward, _, _, info = environment.step("5")
        assert (reward, info["success"]) == (0.75, True)

    def test_the_anchor_is_the_number_of_the_attempt(self) -> None:
        environment, _, info = asked(attempts=3)
        anchors = [info["anchor"], *(environment.step(answer)[4]["anchor"] for answer in ("1", "2", "4"))]
        assert anchors == ["attempt 1", "attempt 2", "attempt 3", "right"]

    def test_what_stands_in_answer_tags_is_the_answer(self) -> None:
        environment, _, _ = asked()
        assert environment.step("two and two: <answer> 4 </answer>, not 5")[4]["success"]

    def test_an_answer_that_the_data_set_cannot_score_is_wrong_and_counted(self) -> None:
        environment, _, _ = asked(attempts=2)
        _, reward, _, _, info = environment.step("four")
        assert (reward, info["metrics"]["unscored_answers"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attempts": 0}, "attempts must be >= 1, got 0"),
        ({"success_score": 1.5}, r"success_score must be in \[0, 1\], got 1.5"),
        ({"settings": {"seed": 1}}, "settings must not have 'seed', which the task decides"),
        ({"settings": {"size": 1}}, "settings must not have 'size', which the task decides"),
    ],
)
def test_settings_out_of_their_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReasoningGymEnvironment(**arguments)


def test_a_task_without_a_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="dataset must be given to the environment or by the task, but 'one' names"):
        asked({"level": 1})


def test_negative_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="levels must be >= 0, got -1"):
        ReasoningGymTasks(SPLITS, levels=[-1])


def test_without_the_package_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(RunError, match=r"packages of the extra 'reasoning-gym'. Install them with uv pip install"):
        ReasoningGymEnvironment().warm_up()


@pytest.fixture(scope="module")
def package() -> ModuleType:
    return installed("reasoning_gym", "reasoning-gym")


@pytest.mark.usefixtures("package")
class TestInstalled:
    @pytest.mark.slow
    def test_at_least_a_hundred_data_sets_keep_the_rules_of_environments(self) -> None:
        tasks = ReasoningGymTasks({"train": [3, 3]}).panel("train").tasks
        assert len(tasks) >= 100
        for task in tasks:
            check_environment(ReasoningGymEnvironment(attempts=3), task)

    def test_a_data_sets_own_answer_is_right(self) -> None:
        environment, question, _ = asked()
        assert "how many legs are there" in question
        assert environment._question is not None
        assert environment.step(environment._question.entry["answer"])[4]["success"]

    def test_the_same_seed_asks_the_same_question_and_another_one_another(self) -> None:
        questions = [asked({"seed": seed, **LEGS})[1] for seed in (5, 5, 6)]
        assert questions[0] == questions[1] != questions[2]

    def test_an_id_names_the_data_set(self) -> None:
        assert asked({"id": "leg_counting"})[1] == asked()[1] == asked({"level": None}, dataset="leg_counting")[1]

    def test_settings_of_the_task_come_before_those_of_the_environment(self) -> None:
        def animals(question: str) -> int:
            return question.count(",") + 1

        few, many = {"min_animals": 1, "max_animals": 1}, {"min_animals": 9, "max_animals": 9}
        assert animals(asked({**LEGS, "settings": few}, settings=many)[1]) < animals(asked(settings=many)[1])

    def test_a_higher_level_is_harder(self) -> None:
        easy, hard = (asked({**LEGS, "level": level})[1] for level in (0, 20))
        assert len(easy) < len(hard)

    def test_tasks_of_levels_keep_the_rules_of_sources(self) -> None:
        check_source(ReasoningGymTasks(SPLITS, ["leg_counting"], [0, 2]), ("train", "valid"))

    def test_levels_are_kinds(self) -> None:
        tasks = ReasoningGymTasks(SPLITS, ["leg_counting", "chain_sum"], [0, 2]).panel("valid").tasks[:4]
        assert [task.task_id for task in tasks] == [
            "leg_counting level 0/10",
            "leg_counting level 2/10",
            "chain_sum level 0/10",
            "chain_sum level 2/10",
        ]

    def test_all_data_sets_without_a_level_are_left_out(self) -> None:
        kinds = {task.kind for task in ReasoningGymTasks({"train": [0, 0]}, levels=[5]).panel("train").tasks}
        assert {"leg_counting level 5"} <= kinds
        assert len(kinds) == sum(num_levels(name) > 5 for name in usable_datasets())

    @pytest.mark.parametrize(
        ("datasets", "levels", "message"),
        [
            (["leg_count"], None, "dataset must be one of reasoning-gym's, got 'leg_count'; they are"),
            (["chain_sum"], [99], "level must be one of its curriculum's .* levels, counted from 0, got 99"),
            (["acre"], [0], "'acre' cannot be made with {}: level must be one of its curriculum's 0 levels"),
        ],
    )
    def test_what_the_package_has_not_is_refused_before_a_run_begins(
        self, datasets: list[str], levels: list[int] | None, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            ReasoningGymTasks(SPLITS, datasets, levels).prepare()

    def test_an_unknown_setting_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"'leg_counting' cannot be made with {'legs': 3}: .*legs"):
            asked(settings={"legs": 3})

    def test_a_tiny_policy_trains_two_epochs(self) -> None:
        tasks = SeededTasks({"train": [0, 3]}, ids=["coin_flip", "leg_counting"])
        words = tuple(map(str, range(10)))
        epochs = train_tiny_policy(ReasoningGymEnvironment(attempts=2), tasks, words)
        assert all(1 <= metrics["rollout/episode_length"] <= 2 for metrics in epochs)  # attempts
