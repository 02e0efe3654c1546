"""The turn protocol, turn by turn, and what slow, failing or senseless retrievers do to it."""

import copy
import json
import logging
import pickle
import time
from typing import Any

import pytest

from gigpo_lightning.environments.base import Task, check_environment
from gigpo_lightning.environments.search_qa import SearchQAEnvironment
from gigpo_lightning.errors import RunError
from gigpo_lightning.pool.copies import EnvironmentCopies
from tests.environments.search_qa.retrievers import ScriptedRetriever, passage

QUESTION = "where was the author of the silver lantern born?"
TASK = Task(
    task_id="two_hop/0", kind="two_hop", payload={"question": QUESTION, "golden_answers": ("Nordby", "Nordby town")}
)
FOUND = [
    passage("The Silver Lantern", "The Silver Lantern is a novel.\nIt is by Zoë.", 2.0),
    passage('"Lantern"', "A lamp.", 1.0),
]
SEARCH = "<search> silver lantern </search>"
RIGHT, WRONG = "<answer>The Nordby.</answer>", "<answer>Marstow</answer>"
Outcome = tuple[str, float, bool, bool, dict[str, Any]]


def start(answer: Any = None, **options: Any) -> tuple[SearchQAEnvironment, ScriptedRetriever]:
    retriever = ScriptedRetriever([FOUND] if answer is None else answer)
    environment = SearchQAEnvironment(retriever, **options)
    environment.reset(options={"task": TASK})
    return environment, retriever


def play(*actions: str, **options: Any) -> Outcome:
    """What the last of these actions gives."""
    environment, _ = start(**options)
    return [environment.step(action) for action in actions][-1]


def test_it_keeps_the_rules_of_environments() -> None:
    check_environment(SearchQAEnvironment(ScriptedRetriever([FOUND])), TASK)


class TestTheFirstTurn:
    def test_it_asks_the_question(self) -> None:
        observation, info = SearchQAEnvironment(ScriptedRetriever([FOUND])).reset(options={"task": TASK})
        assert observation == QUESTION
        assert info["instruction"] == QUESTION

    def test_its_anchor_is_the_question(self) -> None:
        _, info = SearchQAEnvironment(ScriptedRetriever([FOUND])).reset(options={"task": TASK})
        assert info["anchor"] == QUESTION

    def test_nothing_has_been_searched_for(self) -> None:
        _, info = SearchQAEnvironment(ScriptedRetriever([FOUND])).reset(options={"task": TASK})
        assert info["metrics"] == {"retriever_calls": 0, "retriever_seconds": 0, "retriever_failures": 0}
        assert info["success"] is False

    @pytest.mark.parametrize("payload", [{}, {"question": "who?"}, {"golden_answers": ("a",)}])
    def test_a_task_of_something_else_is_refused(self, payload: dict[str, Any]) -> None:
        task = Task(task_id="x", kind="x", payload=payload)
        with pytest.raises(ValueError, match="options must have a 'task' with question and golden_answers"):
            SearchQAEnvironment(ScriptedRetriever([])).reset(options={"task": task})

    @pytest.mark.parametrize(
        "payload",
        [
            {"question": "who?", "golden_answers": ()},
            {"question": "who?", "golden_answers": ("The The", "!!!")},
            {"question": " ", "golden_answers": "a"},
        ],
    )
    def test_a_question_without_answers_is_refused_by_its_task(self, payload: dict[str, Any]) -> None:
        task = Task(task_id="nq/7", kind="nq", payload=payload)
        with pytest.raises(ValueError, match="task 'nq/7' must have a question and at least one golden answer"):
            SearchQAEnvironment(ScriptedRetriever([])).reset(options={"task": task})


class TestASearch:
    def test_the_query_goes_to_the_retriever(self) -> None:
        environment, retriever = start(top_k=5)
        environment.step(SEARCH)
        assert retriever.asked == [(["silver lantern"], 5)]

    def test_it_gives_no_reward_and_goes_on(self) -> None:
        assert play(SEARCH)[1:4] == (0.0, False, False)

    def test_in_the_reference_codes_form_passages_are_json(self) -> None:
        text = 'Doc 1: "The Silver Lantern"\nThe Silver Lantern is a novel.\nIt is by Zoë.\nDoc 2: ""Lantern""\nA lamp.'
        assert play(SEARCH)[0] == f"<information>{json.dumps({'result': text})}</information>"
        assert r"by Zo\u00eb.\nDoc 2" in play(SEARCH)[0]

    def test_in_search_r1s_form_they_are_plain_text(self) -> None:
        assert play(SEARCH, information_format="search_r1")[0] == (
            '<information>Doc 1(Title: "The Silver Lantern") The Silver Lantern is a novel.\nIt is by Zoë.\n'
            'Doc 2(Title: ""Lantern"") A lamp.</information>'
        )

    @pytest.mark.parametrize(
        ("information_format", "shown"), [("verl_agent", "Doc 1: A lamp."), ("search_r1", "Doc 1(Title: A lamp.)")]
    )
    def test_a_passage_without_a_title_is_its_text(self, information_format: str, shown: str) -> None:
        observation = play(SEARCH, answer=[[passage("", "A lamp.")]], information_format=information_format)[0]
        assert shown in observation

    def test_its_anchor_is_what_was_found(self) -> None:
        observation, *_, info = play(SEARCH)
        assert info["anchor"] == observation

    def test_a_search_that_finds_nothing_says_so(self) -> None:
        assert "No passage was found." in play(SEARCH, answer=[[]])[0]

    def test_no_more_passages_are_shown_than_were_asked_for(self) -> None:
        assert "Doc 2" not in play(SEARCH, top_k=1)[0]

    def test_of_two_queries_the_first_is_searched_for(self) -> None:
        environment, retriever = start()
        environment.step("<search>one</search><search>two</search>")
        assert retriever.asked == [(["one"], 3)]

    @pytest.mark.parametrize(
        "action",
        ["", "nothing", "<search></search>", "<search>  </search>", "<search>open", "</search>x<search>", "<answer>"],
    )
    def test_an_action_without_a_query_calls_nobody_and_finds_nothing(self, action: str) -> None:
        environment, retriever = start()
        observation, reward, terminated, truncated, info = environment.step(action)
        assert (observation, reward, terminated, truncated, info["anchor"]) == ("", 0.0, False, False, "")
        assert retriever.asked == []

    @pytest.mark.parametrize("information_format", ["verl_agent", "search_r1"])
    def test_of_a_passage_of_ten_megabytes_the_beginning_is_shown(self, information_format: str) -> None:
        environment, _ = start([[passage("T" * 10_000_000, "x" * 10_000_000)]], information_format=information_format)
        observation = environment.step(SEARCH)[0]
        assert len(observation) < 2 * 4000 + 100
        assert "x" * 4000 in observation
        assert "x" * 4001 not in observation

    def test_of_a_title_of_ten_megabytes_too(self) -> None:
        assert len(play(SEARCH, answer=[[passage("T" * 10_000_000, "x")]])[0]) < 4100

    def test_a_passage_that_just_fits_is_shown_whole(self) -> None:
        options: dict[str, Any] = {"information_format": "search_r1", "max_passage_characters": 7}
        assert "A lamp.</information>" in play(SEARCH, answer=[[passage("Lantern", "A lamp.")]], **options)[0]
        assert (
            "A lam …</information>"
            in play(SEARCH, answer=[[passage("L", "A lamp.")]], **options | {"max_passage_characters": 5})[0]
        )

    def test_open_tags_without_end_take_no_time(self) -> None:
        environment, _ = start()
        started = time.process_time()
        environment.step("<search>" * 200_000)
        assert time.process_time() - started < 1  # looking to the end from each would take minutes


class TestAnAnswer:
    @pytest.mark.parametrize(
        "answer",
        [RIGHT, "<answer>nordby TOWN</answer>", "<ANSWER> Nordby </Answer>", "so <answer>Nordby</answer> it is"],
    )
    def test_a_right_one_is_rewarded_and_ends_the_episode(self, answer: str) -> None:
        observation, reward, terminated, truncated, info = play(answer)
        assert (observation, reward, terminated, truncated, info["success"]) == ("", 1.0, True, False, True)

    @pytest.mark.parametrize("answer", [WRONG, "<answer></answer>", "<answer>born in Nordby</answer>"])
    def test_a_wrong_one_ends_it_without(self, answer: str) -> None:
        observation, reward, terminated, truncated, info = play(SEARCH, answer)
        assert (observation, reward, terminated, truncated, info["success"]) == ("", 0.0, True, False, False)

    def test_of_two_answers_the_last_counts(self) -> None:
        assert play(WRONG + RIGHT)[1] == 1.0
        assert play(RIGHT + WRONG)[1] == 0.0

    def test_a_tag_inside_an_answer_is_a_part_of_it(self) -> None:
        assert play("<answer>Marstow or <answer>Nordby</answer>")[1] == 0.0

    def test_beside_an_answer_a_search_is_not_carried_out(self) -> None:
        environment, retriever = start()
        assert environment.step(SEARCH + WRONG)[2] is True
        assert retriever.asked == []

    def test_a_passage_cannot_answer_for_the_policy(self) -> None:
        tricky = [[passage("Trick", RIGHT)]]
        assert play(SEARCH, SEARCH, SEARCH, SEARCH, answer=tricky, information_format="search_r1")[1] == 0.0

    def test_its_reward_can_be_chosen(self) -> None:
        assert play(RIGHT, success_reward=10.0)[1] == 10.0


class TestTheLastTurn:
    def test_a_search_is_not_carried_out_and_the_episode_is_cut_off(self) -> None:
        environment, retriever = start()
        outcomes = [environment.step(SEARCH) for _ in range(4)]
        assert [outcome[2:4] for outcome in outcomes] == [(False, False)] * 3 + [(False, True)]
        assert outcomes[-1][:2] == ("", 0.0)
        assert outcomes[-1][4]["success"] is False
        assert len(retriever.asked) == 3

    def test_an_answer_counts(self) -> None:
        assert play(SEARCH, SEARCH, SEARCH, RIGHT)[1:4] == (1.0, True, False)

    def test_turns_without_a_query_count_too(self) -> None:
        assert play("", "", "", SEARCH)[2:4] == (False, True)

    def test_there_can_be_more_turns_or_fewer(self) -> None:
        assert play(SEARCH, max_turns=1)[2:4] == (False, True)
        assert play(*[SEARCH] * 4, max_turns=5)[2:4] == (False, False)

    def test_another_episode_has_all_its_turns_again(self) -> None:
        environment, _ = start(max_turns=2)
        environment.step(SEARCH)
        _, info = environment.reset(options={"task": TASK})
        assert info["metrics"]["retriever_calls"] == 0
        assert environment.step(SEARCH)[2:4] == (False, False)


class TestTheRetriever:
    def test_calls_and_their_time_are_measured(self) -> None:
        *_, info = play(SEARCH, "", SEARCH, RIGHT)
        assert info["metrics"]["retriever_calls"] == 2
        assert info["metrics"]["retriever_seconds"] > 0
        assert info["metrics"]["retriever_failures"] == 0

    def test_what_was_measured_stays_as_it_was_said(self) -> None:
        environment, _ = start()
        before = environment.step(SEARCH)[4]["metrics"]
        environment.step(SEARCH)
        assert before["retriever_calls"] == 1

    @pytest.mark.parametrize("error", [ConnectionError("gone"), TimeoutError("slow"), RunError("given up")])
    def test_a_failure_is_a_turn_and_is_counted(self, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING)
        observation, reward, terminated, truncated, info = play(SEARCH, answer=error)
        assert observation == '<information>{"result": "The search failed."}</information>'
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert (info["metrics"]["retriever_calls"], info["metrics"]["retriever_failures"]) == (1, 1)
        assert caplog.messages == [f"a search failed: {error}"]

    def test_more_failures_than_allowed_end_the_episode_with_the_error(self) -> None:
        with pytest.raises(ConnectionError, match="gone"):
            play(SEARCH, SEARCH, answer=ConnectionError("gone"))
        with pytest.raises(ConnectionError, match="gone"):
            play(SEARCH, answer=ConnectionError("gone"), max_failures=0)
        assert "failed" in play(SEARCH, SEARCH, answer=ConnectionError("gone"), max_failures=2)[0]

    @pytest.mark.parametrize(
        "answer",
        [None, [], FOUND, [FOUND, FOUND], [None], ["a passage"], [[{"document": {"contents": "x"}}]], {"result": []}],
    )
    def test_an_answer_of_another_form_is_one_clear_error(self, answer: Any) -> None:
        environment = SearchQAEnvironment(ScriptedRetriever(answer))
        environment.reset(options={"task": TASK})
        with pytest.raises(TypeError, match=r"ScriptedRetriever\.search gave .* for one query"):
            environment.step(SEARCH)

    def test_a_monstrous_answer_of_another_form_makes_no_monstrous_error(self) -> None:
        with pytest.raises(TypeError) as raised:
            play(SEARCH, answer=["x" * 10_000_000])
        assert len(str(raised.value)) < 500

    def test_copies_share_it(self) -> None:
        environment, retriever = start()
        twin = copy.deepcopy(environment)
        assert twin.retriever is retriever
        twin.step(RIGHT)
        assert environment.step(RIGHT)[1] == 1.0

    def test_copies_play_episodes_of_their_own(self) -> None:
        environment, _ = start(max_turns=2)
        twin = copy.deepcopy(environment)
        twin.step(SEARCH)
        assert environment.step(SEARCH)[4]["metrics"]["retriever_calls"] == 1
        assert twin.step(SEARCH)[3] is True

    def test_the_copies_of_a_process_share_it(self) -> None:
        retriever = ScriptedRetriever([FOUND])
        copies = EnvironmentCopies(SearchQAEnvironment(retriever))
        for slot in (0, 1):
            copies.carry_out(slot, TASK)
            copies.carry_out(slot, SEARCH)
        assert len(retriever.asked) == 2

    def test_another_process_gets_one_of_its_own(self) -> None:
        environment = SearchQAEnvironment(ScriptedRetriever([FOUND]), top_k=1)
        twin = pickle.loads(pickle.dumps(environment))
        assert (twin.top_k, twin.retriever.answer) == (1, [FOUND])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_turns": 0}, "max_turns must be >= 1, got 0"),
        ({"top_k": 0}, "top_k must be >= 1, got 0"),
        ({"max_passage_characters": 0}, "max_passage_characters must be >= 1, got 0"),
        ({"max_failures": -1}, "max_failures must be >= 0, got -1"),
    ],
)
def test_arguments_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchQAEnvironment(ScriptedRetriever([]), **options)
