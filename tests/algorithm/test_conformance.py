"""The check of estimators: ours pass it, and each broken rule is named."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gigpo_lightning.algorithm import Credit, CreditEstimator, GiGPO, check_estimator
from gigpo_lightning.trajectory import StepTable
from tests.algorithm.test_estimators import estimators
from tests.resume_run import RememberingGiGPO


@estimators
def test_every_estimator_of_ours_passes(estimator: CreditEstimator) -> None:
    check_estimator(estimator)


class Broken(GiGPO):
    """GiGPO, with its credit changed before it is given out."""

    def change(self, credit: Credit, table: StepTable) -> Any:
        return credit

    def estimate(self, table: StepTable) -> Any:
        return self.change(super().estimate(table), table)


class GivesTuples(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        return (credit.advantage, credit.metrics)


class Rounds(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        return _assemble(credit, advantage=credit.advantage.astype(np.float32))


class LosesARow(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        return _assemble(credit, step_advantage=credit.step_advantage[1:])


class DividesByNothing(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        return replace(credit, episode_advantage=np.full(len(table), np.inf))


class WritesIntoTheTable(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        table.reward[0] += 1.0
        return credit


class TellsRowsApart(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        return replace(credit, advantage=credit.advantage + np.arange(len(table)))


class ReadsNumbers(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        return replace(credit, advantage=credit.advantage * (table.trajectory_id + 1))


class MixesTasks(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        return replace(credit, advantage=credit.advantage + np.sort(table.reward).sum())


class MixesEnds(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        ends = [] if table.next_anchor_key is None else sorted(set(table.next_anchor_key.tolist()))
        return replace(credit, advantage=credit.advantage + len(ends))


class MixesValidity(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        return replace(credit, advantage=credit.advantage + table.valid_action.sum())


class GroupsByAnchorAlone(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        return replace(credit, step_group_id=np.unique(table.anchor_key.astype(str), return_inverse=True)[1])


class ForgetsToSave(Broken):
    count = 0

    def change(self, credit: Credit, table: StepTable) -> Any:
        self.count += 1
        return replace(credit, advantage=credit.advantage / self.count)


class ClipsToNothing(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        return replace(credit, clip_scale=np.zeros(len(table)))


class ClipsByRow(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        return replace(credit, clip_scale=1.0 + np.arange(len(table)))


class LogsWords(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        return _assemble(credit, metrics={"credit/mood": "good"})


class WritesIntoTheScores(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        table.scores["progress"][:] = 0.0
        return credit


class NeedsEnds(Broken):
    message = "column next_anchor_key must say where each episode ended, but is absent"

    def change(self, credit: Credit, table: StepTable) -> Any:
        if table.next_anchor_key is None:
            raise ValueError(self.message)
        return credit


class RefusesWithoutAReason(NeedsEnds):
    message = "no"


class TrustsScores(Broken):
    def change(self, credit: Credit, table: StepTable) -> Any:
        return replace(credit, advantage=credit.advantage * np.nan_to_num(table.scores["progress"]))


class Unsaved:
    def estimate(self, table: StepTable) -> Credit:
        return GiGPO().estimate(table)


class SavesAList(GiGPO):
    def state_dict(self) -> Any:
        return [1]


def _assemble(credit: Credit, **changes: Any) -> Credit:
    """A Credit whose parts are not looked at."""
    made = object.__new__(Credit)
    for name in Credit.__slots__:
        object.__setattr__(made, name, changes.get(name, getattr(credit, name)))
    return made


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Unsaved, "an estimator must have a method state_dict, which Unsaved has not"),
        (SavesAList, r"state_dict must return a dictionary, got \[1\]"),
        (GivesTuples, "estimate must return a Credit, got tuple"),
        (Rounds, r"advantage must be float64 of shape \(\d+,\), got float32"),
        (LosesARow, r"step_advantage must be float64 of shape \(\d+,\), got float64 of shape"),
        (DividesByNothing, "episode_advantage must be finite, got inf"),
        (LogsWords, "metrics must map names to numbers, got 'credit/mood': 'good'"),
        (WritesIntoTheTable, "estimate must leave its table as it was, but changed column reward"),
        (ForgetsToSave, "the same table after load_state_dict must get the same credit, to the last bit"),
        (ClipsToNothing, r"clip_scale must be > 0, got 0\.0"),
        (ClipsByRow, r"the order of the rows must change nothing .* but clip_scale differs"),
        (TellsRowsApart, r"the order of the rows must change nothing .* but advantage differs"),
        (ReadsNumbers, "the numbers of groups and trajectories must not matter"),
        (GroupsByAnchorAlone, "step_group_id must name groups within one episode group"),
        (MixesTasks, "what happens in one task must not move the advantage of another's steps"),
        (MixesEnds, "what happens in one task must not move the advantage of another's steps"),
        (MixesValidity, "what happens in one task must not move the advantage of another's steps"),
    ],
)
def test_each_broken_rule_is_named(kind: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_estimator(kind())


def test_scores_that_an_estimator_reads_are_drawn() -> None:
    check_estimator(TrustsScores(), scores=["progress"])


def test_one_that_writes_into_scores_is_named() -> None:
    with pytest.raises(ValueError, match=r"must leave its table as it was, but changed scores\['progress'\]"):
        check_estimator(WritesIntoTheScores(), scores=["progress"])


def test_one_may_refuse_a_table_that_does_not_know_where_episodes_ended() -> None:
    check_estimator(NeedsEnds())


def test_one_that_refuses_such_a_table_has_to_name_the_column() -> None:
    with pytest.raises(ValueError, match=r"^no$"):
        check_estimator(RefusesWithoutAReason())


def test_one_that_compares_tasks_may_say_so() -> None:
    class Declared(MixesTasks):
        whole_batch = True

    check_estimator(Declared())


def test_one_that_remembers_is_checked_and_left_as_it_was() -> None:
    class Remembering(RememberingGiGPO):
        whole_batch = True

    estimator = Remembering()
    estimator.returns = np.array([3.0])
    check_estimator(estimator)
    assert estimator.returns.tolist() == [3.0]
