"""Each reason why nothing is learnt is found, with what to do, and said once."""

from typing import Any

import pytest

from gigpo_lightning.rollout.diagnosis import Diagnosis
from gigpo_lightning.rollout.replies import ReplyCounts
from tests.episodes import group, step, trajectory

LOST = group(trajectory(step()), trajectory(step(), episode_index=1))


def counts(*steps: Any) -> ReplyCounts:
    """Of one episode."""
    return ReplyCounts.of([group(trajectory(*steps))])


def said(diagnosis: Diagnosis, replies: ReplyCounts, **metrics: float) -> list[str]:
    """Reasons of an epoch in which nothing else is wrong, apart from some figures."""
    figures = {"success_rate": 0.5}
    usual = replies.metrics() | {"rollout/uniform_group_fraction": 0.5}
    return list(diagnosis.reasons(replies, usual | {f"rollout/{k}": v for k, v in (figures | metrics).items()}))


def test_replies_are_counted_by_the_rule_that_they_broke():
    bad = step(valid_action=False, problem="no action tags", completion_ids=(3, 4, 5), reply_cut=True, response="hm")
    figures = counts(bad, bad, step(valid_action=False), step()).metrics()
    assert figures["rollout/problems/no_action_tags"] == 0.5
    assert figures["rollout/problems/without_a_reason"] == 0.25
    assert figures["rollout/reply_length_mean"] == 2.0
    assert figures["rollout/reply_length_max"] == 3.0
    assert figures["rollout/cut_reply_rate"] == 0.5
    assert figures["rollout/prompt_length_mean"] == 2.0


def test_the_entropy_is_minus_the_mean_of_all_sampled_log_probabilities():
    replies = counts(step(completion_ids=(10, 20)), step(completion_ids=(60,)))  # a hundredth of each id, negated
    assert replies.metrics()["rollout/sampled_entropy"] == pytest.approx(0.3)


def test_a_group_whose_returns_all_agree_is_uniform():
    won = group(trajectory(step(reward=1.0)), trajectory(step(), episode_index=1))
    assert ReplyCounts.of([LOST, won]).metrics()["rollout/uniform_group_fraction"] == 0.5


def test_a_group_of_one_episode_is_not_uniform():
    assert counts(step()).metrics()["rollout/uniform_group_fraction"] == 0.0


def test_ranks_add_up():
    one, other = counts(step(valid_action=False, problem="a")), counts(step(completion_ids=(1, 2)), step())
    total = ReplyCounts.total([one, other])
    assert (total.replies, total.tokens, total.longest, total.problems["a"]) == (3, 4, 2, 1)
    assert total.examples == {"a": "look"}


def test_replies_that_are_all_invalid_are_said_with_the_rule_an_example_and_a_remedy():
    bad = step(valid_action=False, problem="no action tags", response="I would\n go north")
    (reason,) = said(Diagnosis(), counts(bad, bad))
    assert "100 % of the replies are invalid, 100 % because of 'no action tags'" in reason
    assert "'I would go north'" in reason
    assert "BehaviourCloningModule" in reason


def test_a_reason_is_given_once():
    diagnosis, bad = Diagnosis(), counts(step(valid_action=False))
    assert [len(said(diagnosis, bad)) for _ in range(3)] == [1, 0, 0]


def test_invalid_replies_that_were_cut_name_max_tokens():
    cut = step(valid_action=False, problem="no action tags", reply_cut=True)
    (reason,) = said(Diagnosis(), counts(cut, step(), step(), step()))
    assert "25 % of the replies are invalid and were cut at 1 tokens" in reason
    assert "data.sampling.max_tokens" in reason


def test_replies_that_are_as_long_as_they_may_be_and_valid_are_no_reason():
    assert said(Diagnosis(), counts(step(reply_cut=True))) == []


def test_three_epochs_without_a_difference_are_said():
    diagnosis = Diagnosis()
    epochs = [said(diagnosis, counts(step()), uniform_group_fraction=1.0, success_rate=0.0) for _ in range(3)]
    assert epochs[:2] == [[], []]
    assert "begin with easier tasks or with imitation" in epochs[2][0]


def test_an_epoch_with_a_difference_begins_the_count_anew():
    diagnosis = Diagnosis()
    fractions = (1.0, 1.0, 0.9, 1.0, 1.0)
    assert not any(said(diagnosis, counts(step()), uniform_group_fraction=each) for each in fractions)


def test_tasks_that_are_all_won_are_too_easy():
    diagnosis = Diagnosis()
    for _ in range(2):
        said(diagnosis, counts(step()), uniform_group_fraction=1.0, success_rate=1.0)
    (reason,) = said(diagnosis, counts(step()), uniform_group_fraction=1.0, success_rate=1.0)
    assert "choose harder tasks" in reason


@pytest.mark.parametrize(("success", "found"), [(0.2, 1), (1.0, 0)])
def test_entropy_that_is_gone_is_a_reason_unless_the_policy_wins(success: float, found: int):
    diagnosis = Diagnosis()
    said(diagnosis, counts(step()), sampled_entropy=1.0, success_rate=success)
    assert len(said(diagnosis, counts(step()), sampled_entropy=0.01, success_rate=success)) == found


def test_replies_that_grow_are_said():
    diagnosis = Diagnosis()
    said(diagnosis, counts(step()), reply_length_mean=50.0)
    (reason,) = said(diagnosis, counts(step()), reply_length_mean=160.0)
    assert reason.startswith("replies grew from 50 to 160 tokens on average")


def test_a_run_that_goes_on_gives_no_reason_again():
    first, bad = Diagnosis(), counts(step(valid_action=False))
    assert said(first, bad)
    resumed = Diagnosis()
    resumed.load_state_dict(first.state_dict())
    assert said(resumed, bad) == []
    assert said(resumed, counts(step()), reply_length_mean=160.0)[0].startswith("replies grew from 1 to 160")
