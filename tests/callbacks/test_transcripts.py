"""Episodes in files that any tool opens, and as text to read."""

import pyarrow.parquet as pq
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import Transcripts
from callbacks.transcripts import transcript
from gigpo_lightning.algorithm import GiGPO
from tests.episodes import step, trajectory
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


def test_an_episode_is_written_turn_by_turn():
    first = step(observation="a room.\n\nYour task: fly", action="look")
    second = step(observation="a hall", action="fly", valid_action=False)
    assert transcript(trajectory(first, second)).split("\n\n") == [
        "**task** (kind): failure",
        "(0) a room. Your task: fly",
        "**> look**",
        "(1) a hall",
        "**> fly** (invalid)",
        "(2) ",
    ]


def run(folder, every_n_epochs):
    module = tiny_module()
    trainer = quiet_trainer(
        folder,
        ScriptedSync(),
        Transcripts(every_n_epochs),
        max_epochs=4,
        check_val_every_n_epoch=4,
        logger=TensorBoardLogger(folder),
    )
    trainer.fit(module, walking_data(random_walk(module)))
    return trainer


@pytest.mark.parametrize(("every", "epochs"), [(1, [0, 1, 2, 3]), (2, [0, 2]), (0, [])])
def test_every_nth_epoch_is_written(tmp_path, every, epochs):
    trainer = run(tmp_path, every)
    files = sorted(path.name for path in (tmp_path / "lightning_logs").rglob("*.parquet"))
    assert files == [f"epoch_{epoch}.parquet" for epoch in epochs]
    if 0 in epochs:
        table = pq.read_table(f"{trainer.log_dir}/trajectories/epoch_0.parquet")
        assert len(set(table["trajectory_id"].to_pylist())) == 4 * 4


def test_prompts_are_there_as_text_that_gives_their_ids(tmp_path):
    trainer = run(tmp_path, 1)
    table = pq.read_table(f"{trainer.log_dir}/trajectories/epoch_0.parquet")
    encode = trainer.lightning_module.policy.tokenizer.encode
    for prompt, ids in zip(table["prompt"].to_pylist(), table["prompt_ids"].to_pylist(), strict=True):
        assert encode(prompt) == ids


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


def test_a_success_and_a_failure_can_be_read_in_tensorboard(tmp_path):
    events = EventAccumulator(run(tmp_path, 0).log_dir)
    events.Reload()
    written = {tag.removesuffix("/text_summary") for tag in events.Tags()["tensors"]}
    assert {"held_out/valid_seen/success", "held_out/valid_seen/failure"} <= written


def test_a_negative_interval_is_refused():
    with pytest.raises(ValueError, match="every_n_epochs must be >= 0, got -1"):
        Transcripts(-1)
