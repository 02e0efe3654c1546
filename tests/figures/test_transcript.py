"""Episodes to read: a table that TensorBoard shows as one, with credit where there was something to compare."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.plugin_util import markdown_to_safe_html

from gigpo_lightning.figures import best_median_worst, transcript
from gigpo_lightning.figures.transcript import LONGEST_OBSERVATION
from tests.episodes import step, trajectory
from tests.figures.groups import attempt, credited, group_of


def markdown(*episode) -> str:
    """A transcript as Markdown."""
    return transcript(*episode).markdown


def cells(text: str) -> list[list[str]]:
    """The rows of the table as TensorBoard shows it, each cell in one line."""
    rows = re.findall(r"<tr>(.*?)</tr>", markdown_to_safe_html(text).replace("<br>", " "), re.DOTALL)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]


def test_a_step_has_its_action_and_what_it_was_worth():
    (episodes,) = credited(group_of(("ab", 8.0), ("ac", 0.0)))
    assert cells(markdown(episodes[0].trajectory, episodes[0])) == [
        ["step", "observation", "action", "valid", "anchor group", "A_E", "A_S"],
        ["0", "you are in a", "go 0", "yes", "2", "+4.00", "+3.80"],
        ["1", "you are in b", "go 1", "yes", "1", "+4.00", "0"],
        ["2", "the end", "", "", "", "", ""],
    ]


def test_an_episode_that_was_played_alone_says_so_and_prints_no_zeros():
    text = markdown(attempt("ab", 8.0))
    assert "Played once: there is no other attempt to compare it with, and so no credit." in text
    assert cells(text)[0] == ["step", "observation", "action", "valid"]
    assert cells(text)[1] == ["0", "you are in a", "go 0", "yes"]


def test_the_same_is_there_as_rows_of_plain_text():
    (episodes,) = credited(group_of(("ab", 8.0), ("ac", 0.0)))
    found = transcript(episodes[0].trajectory, episodes[0])
    assert found.columns == ["task", "outcome", "step", "observation", "action", "valid", "anchor group", "A_E", "A_S"]
    told = ["task", "won after 2 steps (terminated), return 8"]
    assert found.rows[0] == [*told, "0", "you are in a", "go 0", "yes", "2", "+4.00", "+3.80"]
    assert found.rows[2] == [*told, "2", "the end", "", "", "", "", ""]


def test_plain_text_has_what_the_world_said_without_markup():
    assert transcript(trajectory(step(observation="a | *b*"))).rows[0][3] == "a | *b*"


def test_an_invalid_action_stands_out():
    assert cells(markdown(attempt("ab", invalid=[1])))[2][3] == "<strong>no</strong>"


def test_the_head_says_who_and_how_it_ended():
    won, lost = markdown(attempt("a", 8.0, number=3)), markdown(attempt("ab"))
    assert won.startswith("**task** (kind), episode 3: **won** after 1 step (terminated), return 8\n")
    assert lost.startswith("**task** (kind), episode 0: **lost** after 2 steps (max steps), return 0\n")


@given(st.text(max_size=60))
def test_whatever_the_world_says_is_shown_as_it_is_and_never_as_markup(said: str):
    rows = cells(markdown(trajectory(step(observation=said, action=said, response=said))))
    assert [len(row) for row in rows] == [4, 4, 4]
    assert all("<" not in cell for cell in rows[1])


@pytest.mark.parametrize(
    "said", ["a | b", "*a* _b_ `c`", "[a](b)", "![a](b)", "<b>a</b>", "<em>a</em>", "\\", "# a", "&lt;", "~a~"]
)
def test_markup_is_shown_as_it_was_written(said: str):
    shown = cells(markdown(trajectory(step(observation=said))))[1][1]
    assert "<" not in shown
    assert shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == said


def test_a_long_observation_is_shortened():
    shown = cells(markdown(trajectory(step(observation="word " * 1000))))[1][1]
    assert len(shown) == LONGEST_OBSERVATION
    assert shown.endswith("…")


def test_no_line_of_an_observation_is_so_long_that_other_columns_break():
    row = markdown_to_safe_html(markdown(trajectory(step(observation="a long story " * 20))))
    lines = re.findall(r"<td>(a long.*?)</td>", row, re.DOTALL)[0].split("<br>")
    assert len(lines) > 5
    assert max(map(len, lines)) <= 40


def test_the_best_wins_early_and_the_worst_gains_least():
    episodes = [attempt("abc", 8.0), attempt("ab"), attempt("ab", 8.0), attempt("abcd"), attempt("abcd", 8.0)]
    assert best_median_worst(episodes) == {"best": 2, "median": 4, "worst": 3}


@pytest.mark.parametrize(
    ("count", "chosen"),
    [(0, {}), (1, {"best": 0}), (2, {"best": 0, "worst": 1}), (3, {"best": 0, "median": 1, "worst": 2})],
    ids=["none", "one", "two", "three"],
)
def test_no_episode_is_shown_twice(count: int, chosen: dict[str, int]):
    assert best_median_worst([attempt("a")] * count) == chosen


def test_the_reply_is_shown_where_it_is_more_than_the_action():
    wordy = step(response="I think: <action>look</action>", action="look")
    assert cells(markdown(trajectory(wordy, step())))[:3] == [
        ["step", "observation", "reply", "action", "valid"],
        ["0", "a room", "I think: &lt;action&gt;look&lt;/action&gt;", "look", "yes"],
        ["1", "a room", "look", "look", "yes"],
    ]


def test_an_invalid_reply_says_which_rule_it_broke_and_whether_it_was_cut():
    bad = step(response="I think that", action="that", valid_action=False, problem="no action tags", reply_cut=True)
    row = cells(markdown(trajectory(bad)))[1]
    assert row[2:] == ["I think that (cut)", "that", "<strong>no</strong>: no action tags"]


def test_a_long_prompt_is_shown_without_its_middle():
    html = markdown_to_safe_html(transcript(trajectory(step()), prompt="<begin>" + "x" * 5000 + "<end>").markdown)
    assert "The prompt of step 0:" in html
    assert html.count("x") < 2100
    assert "&lt;begin&gt;" in html
    assert "&lt;end&gt;" in html
