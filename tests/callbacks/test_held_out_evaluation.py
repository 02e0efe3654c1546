"""Every held-out episode is counted once and written down, and the fit ends with what it was worth."""

import json
import logging

import pytest

from callbacks import HeldOutEvaluation
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


def run(folder, num_sanity_val_steps=-1, batch_mean_size=None, **options):
    """A fit of two epochs, evaluated before and after."""
    module = tiny_module()
    evaluation = HeldOutEvaluation(batch_mean_size=batch_mean_size)
    data = walking_data(random_walk(module), held_out_splits=["valid_seen", "valid_unseen"], **options)
    defaults = {"max_epochs": 2, "check_val_every_n_epoch": 2, "num_sanity_val_steps": num_sanity_val_steps}
    trainer = quiet_trainer(folder, ScriptedSync(), evaluation, logger=False, **defaults)
    trainer.fit(module, data)
    lines = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    return trainer, data, evaluation, lines


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # without a logger a run's folder is default_root_dir, and nothing may leave it
    return tmp_path


@pytest.mark.slow
def test_each_evaluation_writes_every_game_of_every_split_once(folder):
    _, data, _, lines = run(folder)
    for split in ("valid_seen", "valid_unseen"):
        expected = sorted(task.task_id for task in data.player.panels[split].tasks)
        versions = sorted({line["policy_version"] for line in lines})
        assert versions == [0, 2]
        for version in versions:
            played = [line["task_id"] for line in lines if (line["split"], line["policy_version"]) == (split, version)]
            assert sorted(played) == expected


@pytest.mark.slow
def test_the_logged_success_is_that_of_the_record(folder):
    trainer, _, _, lines = run(folder)
    last = [line for line in lines if (line["split"], line["policy_version"]) == ("valid_seen", 2)]
    success = {"": [line["success"] for line in last]}
    for kind in {line["kind"] for line in last}:
        success[f"{kind}/"] = [line["success"] for line in last if line["kind"] == kind]
    for name, won in success.items():
        logged = trainer.callback_metrics[f"held_out/valid_seen/{name}success_rate"]
        assert logged == pytest.approx(sum(won) / len(won))
    for name in ("reply_length_mean", "reply_length_max", "cut_reply_rate", "sampled_entropy"):
        assert f"held_out/valid_seen/{name}" in trainer.callback_metrics


@pytest.mark.slow
def test_repeats_of_a_game_are_one_pair_of_the_comparison(folder):
    _, data, evaluation, lines = run(folder, held_out_repeats=3)
    games = len(data.player.panels["valid_seen"].tasks)
    assert sum(line["split"] == "valid_seen" for line in lines) == 2 * 3 * games
    (_, before), (_, after) = evaluation.evaluations["valid_seen"]
    assert before.keys() == after.keys()
    assert len(before) == games


@pytest.mark.slow
def test_the_fit_ends_with_the_comparison_and_where_to_look(folder, caplog):
    caplog.set_level(logging.INFO)
    _, data, _, _ = run(folder)
    games = len(data.player.panels["valid_unseen"].tasks)
    # The script plays without the policy's weights, so that before and after are equal game by game.
    assert f"gain on valid_unseen: +.000 [+.000, +.000], 95 % paired bootstrap over {games} games" in caplog.messages
    (line,) = [line for line in caplog.messages if line.startswith("held-out success on valid_unseen")]
    assert line.endswith("after (version 2)")
    assert f"run folder: {folder}" in caplog.messages
    assert caplog.messages[-1].startswith("look at it: ")
    assert str(folder / "evaluations.jsonl") in caplog.messages[-1]  # no logger has written for TensorBoard


@pytest.mark.slow
def test_a_single_evaluation_is_not_compared_with_itself(folder, caplog):
    caplog.set_level(logging.INFO)
    run(folder, num_sanity_val_steps=0)
    (line,) = [line for line in caplog.messages if line.startswith("held-out success on valid_unseen")]
    assert line.endswith("at version 2; no other to compare with")


@pytest.mark.slow
def test_the_first_evaluation_is_remembered_by_a_run_that_goes_on(folder, caplog):
    trainer, _, evaluation, _ = run(folder)
    trainer.save_checkpoint(folder / "two.ckpt")
    caplog.set_level(logging.INFO)
    caplog.clear()
    module, again = tiny_module(), HeldOutEvaluation()
    later = walking_data(random_walk(module), held_out_splits=["valid_seen", "valid_unseen"])
    options = {"max_epochs": 4, "check_val_every_n_epoch": 2, "num_sanity_val_steps": -1}
    quiet_trainer(folder, ScriptedSync(), again, **options).fit(module, later, ckpt_path=folder / "two.ckpt")
    assert {split: [version for version, _ in each] for split, each in again.evaluations.items()} == {
        "valid_seen": [0, 2, 4],  # and none is played for a second time
        "valid_unseen": [0, 2, 4],
    }
    assert again.evaluations["valid_seen"][:2] == evaluation.evaluations["valid_seen"]
    (line,) = [line for line in caplog.messages if line.startswith("held-out success on valid_seen")]
    assert "before (version 0)" in line
    assert "after (version 4)" in line


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """What a run logs that averages over batches of three, and its last evaluation's record."""
    folder = tmp_path_factory.mktemp("averaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trainer, data, _, lines = run(folder, num_sanity_val_steps=0, batch_mean_size=3)
    last = [line for line in lines if line["split"] == "valid_unseen"]
    assert [line["task_id"] for line in last] == [task.task_id for task in data.player.panels["valid_unseen"].tasks]
    assert len({line["kind"] for line in last}) == 2
    return trainer.callback_metrics, last


def rates_of_kinds(lines):
    kinds = {line["kind"]: [] for line in lines}
    for line in lines:
        kinds[line["kind"]].append(line["success"])
    return {kind: sum(won) / len(won) for kind, won in kinds.items()}


@pytest.mark.slow
def test_kinds_can_be_counted_as_one_each(averaged):
    logged, lines = averaged
    near, far = rates_of_kinds(lines).values()
    assert logged["held_out/valid_unseen/success_rate_kind_mean"] == pytest.approx((near + far) / 2)


def test_the_reference_codes_mean_over_batches_is_logged_by_its_name(averaged):
    logged, lines = averaged
    batches = [rates_of_kinds(lines[start : start + 3]) for start in range(0, len(lines), 3)]
    means = []
    for kind in rates_of_kinds(lines):
        own = [batch[kind] for batch in batches if kind in batch]
        means.append(sum(own) / len(own))
        assert logged[f"held_out/valid_unseen/{kind}/success_rate_batch_mean"] == pytest.approx(means[-1])
    assert logged["held_out/valid_unseen/success_rate_batch_mean"] == pytest.approx(sum(means) / 2)


def test_whatever_the_batches_every_task_is_counted_once(averaged):
    logged, lines = averaged
    won = [line["success"] for line in lines]
    assert 0 < sum(won) < len(won)
    assert logged["held_out/valid_unseen/success_rate"] == pytest.approx(sum(won) / len(won))


def test_means_over_batches_are_not_logged_unasked(folder):
    trainer, _, _, _ = run(folder, num_sanity_val_steps=0)
    assert not [name for name in trainer.callback_metrics if "batch_mean" in name]


def test_batches_of_none_are_refused():
    with pytest.raises(ValueError, match="batch_mean_size must be >= 1, got 0"):
        HeldOutEvaluation(batch_mean_size=0)
