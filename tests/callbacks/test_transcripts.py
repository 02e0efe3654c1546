"""Episodes in files that any tool opens, and as text to read."""

import pyarrow.parquet as pq
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import Transcripts
from gigpo_lightning.algorithm import GiGPO
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


def run(folder, every_n_epochs, text_every_n_epochs=10, logger=None, **options):
    module = tiny_module()
    trainer = quiet_trainer(
        folder,
        ScriptedSync(),
        Transcripts(every_n_epochs, text_every_n_epochs),
        max_epochs=4,
        check_val_every_n_epoch=4,
        logger=logger or TensorBoardLogger(folder),
    )
    trainer.fit(module, walking_data(random_walk(module), **options))
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(("every", "epochs"), [(1, [0, 1, 2, 3]), (2, [0, 2]), (0, [])])
def test_every_nth_epoch_is_written(tmp_path, every, epochs):
    trainer = run(tmp_path, every)
    files = sorted(path.name for path in (tmp_path / "lightning_logs").rglob("*.parquet"))
    assert files == [f"epoch_{epoch}.parquet" for epoch in epochs]
    if 0 in epochs:
        table = pq.read_table(f"{trainer.log_dir}/trajectories/epoch_0.parquet")
        assert len(set(table["trajectory_id"].to_pylist())) == 4 * 4


@pytest.mark.slow
def test_prompts_are_there_as_text_that_gives_their_ids(tmp_path):
    trainer = run(tmp_path, 1)
    table = pq.read_table(f"{trainer.log_dir}/trajectories/epoch_0.parquet")
    encode = trainer.lightning_module.policy.tokenizer.encode
    for prompt, ids in zip(table["prompt"].to_pylist(), table["prompt_ids"].to_pylist(), strict=True):
        assert encode(prompt) == ids


@pytest.mark.slow
def test_predict_writes_what_training_writes_and_an_estimator_learns_nothing_from_it(tmp_path):
    trainer = run(tmp_path, 1)
    module = trainer.lightning_module
    seen = []

    class Remembers(GiGPO):
        def estimate(self, table):
            seen.append(len(table))
            self.remembered = len(table)
            return super().estimate(table)

    module.credit = Remembers()
    data = walking_data(random_walk(module), held_out_repeats=4, predict_split="valid_seen")
    predictor = quiet_trainer(tmp_path, ScriptedSync(), Transcripts(), logger=TensorBoardLogger(tmp_path))
    predictor.predict(module, data, return_predictions=False)
    ours = pq.read_table(f"{predictor.log_dir}/trajectories/predict_valid_seen.parquet")
    assert ours.schema.names == pq.read_table(f"{trainer.log_dir}/trajectories/epoch_0.parquet").schema.names
    assert seen == [len(ours)]
    assert not hasattr(module.credit, "remembered")
    assert any(ours["episode_advantage"].to_pylist())


def texts(trainer):
    """The latest text of every tag, and how many there are."""
    events = EventAccumulator(trainer.log_dir)
    events.Reload()
    tags = [tag for tag in events.Tags()["tensors"] if tag.endswith("/text_summary")]
    found = {tag.removesuffix("/text_summary"): events.Tensors(tag) for tag in tags}
    return {tag: (each[-1].tensor_proto.string_val[0].decode(), len(each)) for tag, each in found.items()}


@pytest.mark.slow
def test_held_out_episodes_and_episodes_of_the_rollout_can_be_read(tmp_path):
    found = texts(run(tmp_path, 0))
    assert found.keys() == {
        f"{source}/{which}" for source in ("held_out/valid_seen", "rollout") for which in ("best", "median", "worst")
    }
    assert "**won**" in found["held_out/valid_seen/best"][0]
    assert "**lost**" in found["held_out/valid_seen/worst"][0]


@pytest.mark.slow
def test_a_task_that_is_played_once_has_no_credit_and_the_rollout_has(tmp_path):
    found = texts(run(tmp_path, 0))
    assert "Played once" in found["held_out/valid_seen/best"][0]
    assert "| A_E | A_S |" not in found["held_out/valid_seen/best"][0]
    assert "| A_E | A_S |" in found["rollout/best"][0]


@pytest.mark.slow
def test_a_task_that_is_played_twice_has_credit(tmp_path):
    trainer = run(tmp_path, 0, held_out_repeats=2)
    assert "| A_E | A_S |" in texts(trainer)["held_out/valid_seen/best"][0]


def test_an_estimator_learns_nothing_from_held_out_episodes(tmp_path):
    seen = []

    class Remembers(GiGPO):
        remembered = 0

        def estimate(self, table):
            seen.append(len(table))
            self.remembered += 1
            return super().estimate(table)

    module = tiny_module()
    module.credit = Remembers()
    trainer = quiet_trainer(tmp_path, ScriptedSync(), Transcripts(), logger=TensorBoardLogger(tmp_path))
    trainer.validate(module, walking_data(random_walk(module), held_out_repeats=2))
    assert len(seen) == 1
    assert module.credit.remembered == 0


@pytest.mark.slow
@pytest.mark.parametrize(("every", "times"), [(1, 4), (3, 2), (0, 0)])
def test_every_nth_rollout_is_shown(tmp_path, every, times):
    found = texts(run(tmp_path, 0, text_every_n_epochs=every))
    assert [times_shown for tag, (_, times_shown) in found.items() if tag == "rollout/best"] == [times] * bool(times)


@pytest.mark.slow
def test_a_logger_without_texts_is_no_error(tmp_path):
    run(tmp_path, 1, logger=CSVLogger(tmp_path))


@pytest.mark.parametrize("name", ["every_n_epochs", "text_every_n_epochs"])
def test_a_negative_interval_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be >= 0, got -1"):
        Transcripts(**{name: -1})
