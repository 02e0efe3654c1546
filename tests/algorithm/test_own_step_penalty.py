"""A penalty that counts where it was incurred: nothing is learnt where no reply is valid and nothing is rewarded."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gigpo_lightning.algorithm import (
    A2TGPO,
    G2PO,
    GRPO,
    HGPO,
    RLOO,
    CreditEstimator,
    DrGRPO,
    GiGPO,
    GraphGPO,
    ReBel,
    ReinforcePlusPlus,
    RewardFlow,
    SimilarityGrouping,
)
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.tables import Row, step_tables, table_of, take, valid

RULES: list[dict[str, Any]] = [
    {"episode_statistics": "trajectory", "penalty_placement": "reward"},
    {"episode_statistics": "step", "penalty_placement": "reward"},
    {"episode_statistics": "step", "penalty_placement": "step"},
]
STD = [False, True]
KINDS: list[tuple[Any, dict[str, Any]]] = [
    *[(GiGPO, rules | {"scale_by_std": std}) for rules in RULES for std in STD],
    *[(GRPO, rules | {"scale_by_std": std}) for rules in RULES for std in STD],
    (GiGPO, {"grouping": SimilarityGrouping(0.6), "scale_by_std": True}),
    (DrGRPO, {}),
    (RLOO, {}),
    *[(HGPO, {"scale_by_std": std, "episode_group": True}) for std in STD],
    *[(GraphGPO, {"scale_by_std": std}) for std in STD],
    (GraphGPO, {"relative_distance": True, "scale_by_std": True}),
    *[(RewardFlow, {"scale_by_std": std}) for std in STD],
    *[(G2PO, {"scale_by_std": std}) for std in STD],
    (ReBel, {}),
    *[(A2TGPO, {"scale_by_std": std}) for std in STD],
    *[(ReinforcePlusPlus, {"group_baseline": baseline}) for baseline in (False, True)],
]
kinds = pytest.mark.parametrize(("kind", "options"), KINDS)
few = settings(max_examples=10)  # for each of two dozen
PARTS = ("advantage", "episode_advantage", "step_advantage")


def all_invalid(episodes: Sequence[str], group: int = 0) -> StepTable:
    """Episodes that go through these states, without a valid action and without a reward."""
    return table_of(*((group, [(state, 0.0, False) for state in episode]) for episode in episodes))


nonsense = st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=6).map(all_invalid)


@kinds
@few
@given(table=nonsense, penalty=st.floats(0.0, 10.0))
def test_where_no_reply_is_valid_and_nothing_rewarded_nothing_is_learnt(
    table: StepTable, penalty: float, kind: Any, options: dict[str, Any]
) -> None:
    credit = kind(**options, invalid_action_penalty=penalty, own_step_penalty=True).estimate(table)
    for part in PARTS:
        assert not getattr(credit, part).any(), part


@kinds
@few
@given(table=step_tables())
def test_where_every_reply_is_valid_it_is_the_plain_rule_to_the_last_bit(
    table: StepTable, kind: Any, options: dict[str, Any]
) -> None:
    table = replace(table, valid_action=np.ones(len(table), dtype=bool))
    own, plain = kind(**options, own_step_penalty=True).estimate(table), kind(**options).estimate(table)
    for part in PARTS:
        np.testing.assert_array_equal(getattr(own, part), getattr(plain, part), err_msg=part)


@kinds
@few
@given(table=step_tables(), random=st.randoms(use_true_random=False))
def test_row_order_changes_nothing_to_the_last_bit(
    table: StepTable, random: Random, kind: Any, options: dict[str, Any]
) -> None:
    order = random.sample(range(len(table)), len(table))
    estimator: CreditEstimator = kind(**options, own_step_penalty=True)
    shuffled, credit = estimator.estimate(take(table, order)), estimator.estimate(table)
    for part in PARTS:
        np.testing.assert_array_equal(getattr(shuffled, part), getattr(credit, part)[order], err_msg=part)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("scale_by_std", STD)
@few
@given(table=step_tables())
def test_where_no_reply_is_valid_the_penalty_is_a_constant_and_changes_nothing(
    table: StepTable, rules: dict[str, Any], scale_by_std: bool
) -> None:
    table = replace(table, valid_action=np.zeros(len(table), dtype=bool))
    options: dict[str, Any] = rules | {"scale_by_std": scale_by_std}
    own = GiGPO(**options, invalid_action_penalty=0.5, own_step_penalty=True).estimate(table)
    without = GiGPO(**options, invalid_action_penalty=0.0).estimate(table)
    np.testing.assert_allclose(own.advantage, without.advantage, atol=1e-5)


@pytest.mark.parametrize("scale_by_std", STD)
@pytest.mark.parametrize("rules", RULES[:2])
def test_the_paper_s_rule_teaches_something_by_time_alone(rules: dict[str, Any], scale_by_std: bool) -> None:
    credit = GiGPO(**rules, scale_by_std=scale_by_std).estimate(all_invalid(["aaaaaa"] * 4))
    assert (np.diff(credit.advantage[:6]) > 0).all()  # the later nonsense comes, the better


def test_equal_shares_of_episodes_of_other_lengths_agree_exactly() -> None:
    short: list[Row] = [("a", 0.0, True), ("b", 0.0, False), ("c", 0.0, True)]
    credit = GiGPO(scale_by_std=True, own_step_penalty=True).estimate(table_of((0, short), (0, short * 7)))
    assert not credit.episode_advantage.any()


# One task, two episodes: one goes a-b-c and wins 8, the other a-b-a, its second action invalid, and wins nothing.
SIX_STEPS = table_of((0, valid("abc", [0, 0, 8])), (0, [("a", 0.0, True), ("b", 0.0, False), ("a", 0.0, True)]))
HALF: dict[str, Any] = {"discount": 0.5, "invalid_action_penalty": 0.6, "own_step_penalty": True}


def test_the_episode_level_by_hand() -> None:
    credit = GiGPO(**HALF).estimate(SIX_STEPS)  # returns 8 and -0.6/3, mean 3.9
    np.testing.assert_allclose(credit.episode_advantage, [4.1, 4.1, 4.1, -4.1, -4.1, -4.1], rtol=1e-15)


def test_the_step_level_by_hand() -> None:
    credit = GiGPO(**HALF).estimate(SIX_STEPS)  # discounted 2 4 8 and 0 -0.6 0: the step before it pays nothing
    np.testing.assert_allclose(credit.step_advantage, [4 / 3, 2.3, 0, -2 / 3, -2.3, -2 / 3], rtol=1e-15)


def test_step_statistics_take_the_share_from_every_row_by_hand() -> None:
    credit = GiGPO(**HALF, **RULES[1]).estimate(SIX_STEPS)  # 8 8 8 and -0.2 three times, mean 3.9
    np.testing.assert_allclose(credit.episode_advantage, [4.1, 4.1, 4.1, -4.1, -4.1, -4.1], rtol=1e-15)


def test_a_penalty_of_its_own_row_stays_there_in_the_reference_s_rules() -> None:
    own, plain = GiGPO(**HALF, **RULES[2]), GiGPO(**HALF | {"own_step_penalty": False}, **RULES[2])
    np.testing.assert_array_equal(own.estimate(SIX_STEPS).advantage, plain.estimate(SIX_STEPS).advantage)


def test_a_lone_row_keeps_its_reward_without_the_penalty() -> None:
    table = table_of((0, [("a", 3.0, False)]))
    assert GiGPO(**HALF, **RULES[2]).estimate(table).advantage[0] == 3.0


@pytest.mark.parametrize("scale_by_std", STD)
def test_an_invalid_action_beside_a_valid_one_still_costs(scale_by_std: bool) -> None:
    table = table_of((0, [("a", 0.0, True), ("b", 0.0, True)]), (0, [("a", 0.0, False), ("b", 0.0, True)]))
    advantage = GiGPO(scale_by_std=scale_by_std, own_step_penalty=True).estimate(table).advantage
    assert advantage[0] > 0 > advantage[2]
    assert advantage[2] < advantage[3]


CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def credit_when_pretrained(config: Path) -> dict[str, Any] | None:
    """What a YAML says of credit, if it trains a pretrained model by reinforcement learning."""
    module = yaml.safe_load(config.read_text()).get("model", {})
    model = module.get("init_args", {}) if module.get("class_path") == "modules.GiGPOModule" else {}
    policy = model.get("policy", {})
    if policy.get("class_path") != "modules.PretrainedPolicy":
        return None
    return None if policy["init_args"]["model"].startswith("configs/") else model.get("credit", {})


FOR_PRETRAINED = {str(path.relative_to(CONFIGS)): credit_when_pretrained(path) for path in CONFIGS.rglob("*.yaml")}
FOR_PRETRAINED = {name: credit for name, credit in FOR_PRETRAINED.items() if credit is not None}


def test_ten_configurations_train_a_pretrained_model() -> None:
    assert len(FOR_PRETRAINED) == 10


@pytest.mark.parametrize("name", FOR_PRETRAINED)
def test_every_configuration_for_a_pretrained_model_sets_the_option(name: str) -> None:
    assert FOR_PRETRAINED[name]["init_args"]["own_step_penalty"] is True
