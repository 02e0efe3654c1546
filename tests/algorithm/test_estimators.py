"""What every estimator keeps, whatever it computes."""

import re
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser, set_parsing_settings

import gigpo_lightning.algorithm
from gigpo_lightning.algorithm import (
    A2TGPO,
    G2PO,
    GRAFT,
    GRPO,
    HGPO,
    RLOO,
    VPR,
    CreditEstimator,
    DrGRPO,
    GiGPO,
    GraphGPO,
    OrderedEstimator,
    ReBel,
    ReinforcePlusPlus,
    RewardFlow,
    SimilarityGrouping,
)
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.tables import ending, step_tables, table_of, take, valid, won

REFERENCE: dict[str, Any] = {"episode_statistics": "step", "penalty_placement": "step"}
WITHIN_GROUPS: dict[str, CreditEstimator] = {
    "GiGPO, paper": GiGPO(scale_by_std=True),
    "GiGPO, reference": GiGPO(scale_by_std=True, **REFERENCE),
    "GiGPO, similar states": GiGPO(grouping=SimilarityGrouping(0.6, exclude_empty=True)),
    "GRPO": GRPO(scale_by_std=True),
    "DrGRPO": DrGRPO(),
    "RLOO": RLOO(),
    "HGPO": HGPO(scale_by_std=True),
    "HGPO, episode group": HGPO(episode_group=True),
    "GraphGPO": GraphGPO(scale_by_std=True),
    "GraphGPO, relative": GraphGPO(relative_distance=True),
    "GraphGPO, code": GraphGPO(success_by_return=True, graph_grouping=SimilarityGrouping(0.6)),
    "RewardFlow": RewardFlow(scale_by_std=True),
    "RewardFlow, first": RewardFlow(value_rule="first", floor_at_zero=False),
    "G2PO": G2PO(scale_by_std=True),
    "GRAFT": GRAFT(),
    "GRAFT, as it is": GRAFT(normalise=False),
    "ReBel": ReBel(),
    "A2TGPO": A2TGPO(scale_by_std=True),
}
few = settings(max_examples=25)  # for each of a dozen estimators
EVERY = WITHIN_GROUPS | {
    "REINFORCE++": ReinforcePlusPlus(),
    "REINFORCE++, baseline": ReinforcePlusPlus(group_baseline=True),
    "RewardFlow, longest": RewardFlow(end_of_longest=False),
    "VPR": VPR(outcome_scale=1.0),
}
estimators = pytest.mark.parametrize("estimator", EVERY.values(), ids=EVERY.keys())
within_groups = pytest.mark.parametrize("estimator", WITHIN_GROUPS.values(), ids=WITHIN_GROUPS.keys())
PARTS = ("advantage", "episode_advantage", "step_advantage", "step_group_id")


def ended(table: StepTable) -> StepTable:
    """The same table, whose episodes ended in states that others pass through, or in one that they do not."""
    return ending(table, *("abe"[number % 3] for number in sorted(set(table.trajectory_id.tolist()))))


ended_tables = step_tables().map(ended)


def test_no_exported_estimator_is_left_out() -> None:
    exported = {getattr(gigpo_lightning.algorithm, name) for name in gigpo_lightning.algorithm.__all__}
    estimating = {item for item in exported if isinstance(item, type) and hasattr(item, "estimate")}
    assert estimating - {CreditEstimator, OrderedEstimator} == {type(estimator) for estimator in EVERY.values()}


@estimators
def test_it_is_an_estimator_that_remembers_nothing(estimator: CreditEstimator) -> None:
    assert isinstance(estimator, CreditEstimator)
    assert estimator.state_dict() == {}
    estimator.load_state_dict({})


@estimators
@few
@given(table=ended_tables, random=st.randoms(use_true_random=False))
def test_row_order_changes_nothing_to_the_last_bit(
    estimator: CreditEstimator, table: StepTable, random: Random
) -> None:
    order = random.sample(range(len(table)), len(table))
    shuffled, credit = estimator.estimate(take(table, order)), estimator.estimate(table)
    for name in PARTS:
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(credit, name)[order], err_msg=name)


@estimators
@few
@given(table=ended_tables)
def test_the_numbers_given_to_groups_and_trajectories_do_not_matter(
    estimator: CreditEstimator, table: StepTable
) -> None:
    renamed = replace(
        table, episode_group_id=10**12 + 3 * table.episode_group_id, trajectory_id=10**15 + 7 * table.trajectory_id
    )
    np.testing.assert_array_equal(estimator.estimate(renamed).advantage, estimator.estimate(table).advantage)


@estimators
@few
@given(table=ended_tables)
def test_the_advantage_is_finite_and_the_table_is_not_changed(estimator: CreditEstimator, table: StepTable) -> None:
    reward = table.reward.copy()
    assert np.isfinite(estimator.estimate(table).advantage).all()
    np.testing.assert_array_equal(table.reward, reward)


@within_groups
@few
@given(table=ended_tables, task=st.sampled_from([1, 3, 5]))
def test_what_happens_in_one_task_says_nothing_of_another(
    estimator: CreditEstimator, table: StepTable, task: int
) -> None:
    others = table.episode_group_id != task
    richer = replace(
        table,
        reward=np.where(others, table.reward, 7 * table.reward + table.step_index),
        success=np.where(others, table.success, ~table.success),
    )
    np.testing.assert_array_equal(
        estimator.estimate(richer).advantage[others], estimator.estimate(table).advantage[others]
    )


@within_groups
@few
@given(table=ended_tables, bonus=st.sampled_from([-3.0, 0.5, 16.0]))
def test_a_constant_bonus_to_every_episode_changes_nothing_at_episode_level(
    estimator: CreditEstimator, table: StepTable, bonus: float
) -> None:
    if isinstance(estimator, A2TGPO):
        return  # the reward of an inner step is no part of its outcome
    if estimator is EVERY["GiGPO, reference"]:
        table = take(table, np.isin(table.episode_group_id, several_rows(table)))  # a lone row keeps its raw score
        if not len(table):
            return
    paid = replace(table, reward=table.reward + np.where(first_steps(table), bonus, 0.0))
    plain = estimator.estimate(table).episode_advantage
    np.testing.assert_allclose(estimator.estimate(paid).episode_advantage, plain, atol=1e-6)


def first_steps(table: StepTable) -> Any:
    return table.step_index == 0


def several_rows(table: StepTable) -> list[int]:
    groups, counts = np.unique(table.episode_group_id, return_counts=True)
    return [int(group) for group in groups[counts > 1]]


@estimators
@few
@given(size=st.integers(2, 64), scale=st.floats(1, 1000), success=st.booleans())
def test_episodes_that_all_went_alike_teach_exactly_nothing(
    estimator: CreditEstimator, size: int, scale: float, success: bool
) -> None:
    episode = valid("abcde", [0.0, 0.1 * scale, 0.0, 0.3 * scale, 9.7 * scale])
    table = ending(table_of(*[(0, episode)] * size), *"f" * size)
    credit = estimator.estimate(won(table, *range(size)) if success else table)
    if not early_with_late(estimator, size):
        assert not credit.advantage.any()
    elif success or not isinstance(estimator, G2PO):
        assert credit.advantage.any()


def early_with_late(estimator: CreditEstimator, size: int) -> bool:
    """Whether it compares the steps of one episode with one another."""
    if isinstance(estimator, ReinforcePlusPlus):
        return not estimator.group_baseline
    return isinstance(estimator, G2PO) or (isinstance(estimator, VPR) and size < estimator.min_rows)


@estimators
def test_an_invalid_action_costs(estimator: CreditEstimator) -> None:
    table = ending(table_of((0, [("a", 1.0, True)]), (0, [("a", 1.0, False)])), "b", "b")
    if isinstance(estimator, GRAFT):
        assert not estimator.estimate(table).advantage.any()  # it knows success alone
        return
    right, wrong = estimator.estimate(table).advantage
    assert right > wrong


@estimators
def test_an_empty_table_is_refused(estimator: CreditEstimator) -> None:
    with pytest.raises(ValueError, match="table must have at least one row, got 0"):
        estimator.estimate(StepTable.from_groups([]))


@within_groups
def test_a_lone_step_has_nothing_to_be_compared_with(estimator: CreditEstimator) -> None:
    credit = estimator.estimate(ending(won(table_of((0, valid("a", [3.0]))), 0), "b"))
    if estimator is EVERY["GiGPO, reference"]:
        assert credit.advantage[0] == 3.0  # the reference's rule: a lone row keeps its raw score
    else:
        assert credit.advantage[0] == 0.0


@pytest.mark.parametrize("kind", [kind for kind in dict.fromkeys(map(type, EVERY.values())) if kind is not GRAFT])
def test_a_negative_penalty_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"invalid_action_penalty must be >= 0 \(it is subtracted\), got -0.1"):
        kind(invalid_action_penalty=-0.1)


TWO_LEVELS = {"step_advantage_weight", "episode_advantage_weight", "scale_by_std", "grouping"}
ARGUMENTS = {
    GiGPO: TWO_LEVELS | {"discount", "episode_statistics", "penalty_placement"},
    GRPO: {"scale_by_std", "episode_statistics", "penalty_placement"},
    DrGRPO: set(),
    RLOO: set(),
    ReinforcePlusPlus: {"discount", "group_baseline"},
    HGPO: {"history_length", "length_weight_exponent", "episode_group", "count_zeros", "discount", "scale_by_std"}
    | {"grouping"},
    GraphGPO: TWO_LEVELS
    | {"distance_discount", "relative_distance", "goal_return", "success_by_return", "graph_grouping"},
    RewardFlow: TWO_LEVELS | {"value_discount", "value_rule", "floor_at_zero", "end_of_longest", "bridge_idle"},
    G2PO: TWO_LEVELS | {"value_discount", "success_value", "episode_statistics", "penalty_placement"},
    GRAFT: {"discount", "trace_decay", "normalise"},
    ReBel: TWO_LEVELS - {"scale_by_std"} | {"discount", "consistency_reward"},
    A2TGPO: {"information_gain", "turn_weight", "discount", "clip_sensitivity", "std_correction", "scale_by_std"},
    VPR: {"process_reward", "outcome_scale", "min_rows"},
}
PENALTY: dict[type, set[str]] = {GRAFT: set(), VPR: {"invalid_action_penalty"}}
BOTH = {"invalid_action_penalty", "own_step_penalty"}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_help_shows_every_argument_with_its_description_and_no_other(
    kind: type, capsys: pytest.CaptureFixture[str]
) -> None:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # as the CLI has it for help
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--credit", type=CreditEstimator)
    with pytest.raises(SystemExit):
        parser.parse_args([f"--credit.help=gigpo_lightning.algorithm.{kind.__name__}"])
    shown = dict(re.findall(r"^  --credit\.(\w+) .*\n +(.*)", capsys.readouterr().out, re.MULTILINE))
    assert set(shown) == ARGUMENTS[kind] | PENALTY.get(kind, BOTH)
    assert not [name for name, description in shown.items() if description.startswith("(")]
