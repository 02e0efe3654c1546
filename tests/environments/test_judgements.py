"""A judge's reply is read strictly, and the record of judgements is transcript, cache and account in one."""

import copy
import pickle

import pytest

from gigpo_lightning.environments.judgements import Budget, JsonScore, Judgements, TaggedScore, read_verdict
from tests.environments.judged import ill, judged, play_by_hand


@pytest.mark.parametrize(
    ("form", "text", "score"),
    [
        (JsonScore(), '{"score": 7}', 7.0),
        (JsonScore(), '```json\n{"reason": "x", "score": 2.5}\n```', 2.5),
        (JsonScore(), '<think>score 3?</think>\n{"score": 0}', 0.0),
        (TaggedScore(), "well done\n<score> 9.5 </score>", 9.5),
    ],
)
def test_a_score_is_read(form, text, score):
    assert read_verdict(form, text, 0.0, 10.0).score == score


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (JsonScore(), "7"),
        pytest.param(JsonScore(), f'{{"score": {"9" * 400}}}', id="a score beyond all floats"),
        (JsonScore(), "the score is 7"),
        (JsonScore(), '{"score": "7"}'),
        (JsonScore(), '{"score": true}'),
        (JsonScore(), '{"score": null}'),
        (JsonScore(), '{"score": NaN}'),
        (JsonScore(), '{"score": 1, "score": 10}'),
        (JsonScore(), '{"score": 7} and more'),
        (JsonScore(), '{"score": 10.01}'),
        (JsonScore(), '{"score": -1}'),
        (JsonScore(), ""),
        (TaggedScore(), "score 7"),
        (TaggedScore(), "<think>perhaps <score>7</score>, perhaps less"),
        (TaggedScore(), "<score>7</score> or <score>8</score>"),
        (TaggedScore(), "<score>seven</score>"),
        (TaggedScore(), "<score>1e9</score>"),
    ],
)
def test_nothing_else_is_taken_for_a_score(form, text):
    with pytest.raises(ValueError, match="must"):
        read_verdict(form, text, 0.0, 10.0)


class TestTheRecord:
    def test_a_line_that_a_killed_writer_left_is_passed_over(self, tmp_path):
        play_by_hand(judged(tmp_path), "please")
        with (tmp_path / "judged.jsonl").open("a") as file:
            file.write('{"call": "12", "key"')
        assert play_by_hand(judged(tmp_path), "no")[-1][1] == 0.0
        assert play_by_hand(judged(tmp_path, ill), "no")[-1][1] == 0.0
        assert play_by_hand(judged(tmp_path, ill), "please")[-1][1] == 1.0

    def test_two_writers_see_each_other_s_verdicts(self, tmp_path):
        one, other = (judged(tmp_path) for _ in range(2))
        play_by_hand(one, "please")
        assert play_by_hand(other, "please")[-1][4]["metrics"]["judge_cached"] == 1.0

    def test_a_file_of_something_else_is_refused_and_left_alone(self, tmp_path):
        (tmp_path / "judged.jsonl").write_text('{"task": 1}\n')
        with pytest.raises(ValueError, match="record must name a file of judgements"):
            judged(tmp_path)
        assert (tmp_path / "judged.jsonl").read_text() == '{"task": 1}\n'

    @pytest.mark.parametrize("held", ['{"task": 1}', "notes of mine"])
    def test_a_file_of_something_else_without_a_whole_line_is_left_alone_too(self, tmp_path, held):
        (tmp_path / "judged.jsonl").write_text(held)
        with pytest.raises(ValueError, match="record must name a file of judgements"):
            judged(tmp_path)
        assert (tmp_path / "judged.jsonl").read_text() == held

    def test_a_first_line_that_a_killed_writer_left_is_passed_over(self, tmp_path):
        (tmp_path / "judged.jsonl").write_text('{"call": "12", "ke')
        assert play_by_hand(judged(tmp_path), "please")[-1][1] == 1.0
        assert play_by_hand(judged(tmp_path, ill), "please")[-1][1] == 1.0

    def test_a_score_that_is_none_is_no_judgement(self, tmp_path):
        play_by_hand(judged(tmp_path), "please")
        path = tmp_path / "judged.jsonl"
        path.write_text(path.read_text().replace('"score": 1.0', '"score": "1"'))
        assert play_by_hand(judged(tmp_path), "please")[-1][4]["metrics"]["judge_calls"] == 1.0

    def test_copies_share_it_and_a_pickled_one_reads_it_anew(self, tmp_path):
        record = Judgements(tmp_path / "record")
        name = record.begin("k")
        record.end(name, "k", {}, read_verdict(JsonScore(), '{"score": 4}', 0.0, 10.0))
        assert copy.deepcopy(record) is record
        assert pickle.loads(pickle.dumps(record)).find("k").score == 4


@pytest.mark.parametrize("name", ["calls", "tokens"])
def test_a_budget_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"budget.{name} must be >= 1"):
        Budget(**{name: 0})
