"""The last line of a run names what has something to show."""

from gigpo_lightning.where_to_look import where_to_look


def test_tensorboard_is_named_where_a_logger_wrote_for_it(tmp_path):
    (line,) = where_to_look(tmp_path, [str(tmp_path / "board")])
    assert line.startswith("look at it: ")
    assert line.endswith(f"tensorboard --logdir {tmp_path / 'board'}")


def test_without_tensorboard_the_run_s_own_files_are_named(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "metrics.csv").touch()
    assert where_to_look(tmp_path, []) == [f"look at it: {tmp_path / 'figures'}, {tmp_path / 'metrics.csv'}"]


def test_where_there_is_nothing_nothing_is_named(tmp_path):
    assert where_to_look(tmp_path, []) == []
