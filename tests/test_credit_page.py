"""Every number of docs/credit.md, and its figure."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gigpo_lightning.algorithm import Credit, GiGPO
from gigpo_lightning.algorithm.advantages import step_returns, trajectory_scores
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.tables import table_of, valid
from tests.scripts import loaded

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = (DOCS / "credit.md").read_text()
REFERENCE: dict[str, Any] = {"episode_statistics": "step", "penalty_placement": "step"}
OPTIONS: dict[str, Any] = {"discount": 0.5, "invalid_action_penalty": 0.5}
SIX_STEPS = table_of((0, valid("abc", [0, 0, 8])), (0, [("a", 0.0, True), ("b", 0.0, False), ("a", 0.0, True)]))


def columns(heading: str) -> dict[str, list[str]]:
    """The columns of the page's table that begins with this heading."""
    lines = PAGE[PAGE.index(heading) :].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return dict(zip(rows[0], zip(*rows[2:], strict=True), strict=True))


def rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def figure_script() -> Any:
    with loaded(DOCS / "credit_figure.py") as module:
        return module


@pytest.mark.parametrize(
    ("heading", "rules"), [("| attempt | state | reward |", {}), ("| attempt | state | A_E |", REFERENCE)]
)
def test_the_advantages_on_the_page(heading: str, rules: dict[str, Any]) -> None:
    table, credit = columns(heading), GiGPO(**OPTIONS, **rules).estimate(SIX_STEPS)
    for name, values in (("A_E", credit.episode_advantage), ("A_S", credit.step_advantage), ("A", credit.advantage)):
        assert [float(value) for value in table[name]] == rounded(values), name
    assert list(table["state"]) == list(SIX_STEPS.anchor_key)


def test_the_returns_on_the_page() -> None:
    table = columns("| attempt | state | reward |")
    rewards = SIX_STEPS.reward - 0.5 * ~SIX_STEPS.valid_action
    assert [float(value) for value in table["with penalty"]] == rewards.tolist()
    assert [float(value) for value in table["R(τ)"]] == [rewards[:3].sum()] * 3 + [rewards[3:].sum()] * 3
    backwards = [rewards[i : 3 * (i // 3 + 1)] @ 0.5 ** np.arange(3 - i % 3) for i in range(6)]
    assert [float(value) for value in table["R_t"]] == backwards


@pytest.mark.parametrize(("whose", "own"), [("paper's", False), ("own step's", True)])
def test_the_two_attempts_without_a_valid_reply_on_the_page(whose: str, own: bool) -> None:
    table = columns("| attempt | step | paper's R_t |")
    steps = table_of((0, [("a", 0.0, False)] * 2), (0, [("a", 0.0, False)] * 4))
    assert [int(step) for step in table["step"]] == steps.step_index.tolist()
    expected = {
        "R_t": step_returns(steps, 0.5, discount=0.5, own_step_penalty=own),
        "score" if own else "R(τ)": trajectory_scores(steps, 0.5, own_step_penalty=own),
        "A": GiGPO(**OPTIONS, own_step_penalty=own).estimate(steps).advantage,
    }
    for name, values in expected.items():
        np.testing.assert_allclose([float(v) for v in table[f"{whose} {name}"]], values, atol=5.1e-5, err_msg=name)


def test_the_example_of_long_losses_on_the_page() -> None:
    wins = [(0, valid("x" * 15, [0.0] * 14 + [10.0]))] * 6
    table = table_of(*wins, *[(0, valid("x" * 50, [0.0] * 50))] * 2)

    def ends(**rules: Any) -> list[str]:
        credit: Credit = GiGPO(scale_by_std=True, **rules).estimate(table)
        return [f"{credit.episode_advantage[row]:.2f}" for row in (0, -1)]

    sentence = re.search(
        r"the wins ([\d.]+) and the losses (-[\d.]+); the\s.*? gives ([\d.]+) and (-[\d.]+)", PAGE, re.DOTALL
    )
    assert sentence is not None
    assert [*ends(), *ends(**REFERENCE)] == list(sentence.groups())


def test_the_figure_is_what_its_script_draws(tmp_path: Path) -> None:
    figure_script().draw(tmp_path / "credit.svg")
    drawn, kept = (
        re.findall(r">([^<>\n]+)</text>", path.read_text()) for path in (tmp_path / "credit.svg", DOCS / "credit.svg")
    )
    assert drawn == kept


def test_the_figure_shows_the_page_s_step_level() -> None:
    labels = re.findall(r">([+\u2212-]?\d[.\d]*)</text>", (DOCS / "credit.svg").read_text())
    expected = [f"{value:+.2f}" if value else "0" for value in GiGPO(**OPTIONS).estimate(SIX_STEPS).step_advantage]
    assert labels == expected
    script_table: StepTable = figure_script().six_steps()
    np.testing.assert_array_equal(script_table.reward, SIX_STEPS.reward)
    np.testing.assert_array_equal(script_table.valid_action, SIX_STEPS.valid_action)
