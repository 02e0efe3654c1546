"""What a run shows in TensorBoard beside numbers, read back; other loggers show what they can."""

import io
import re

import numpy as np
import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from callbacks import AnchorStats, GroupFigure, HeldOutEvaluation, RolloutMetrics, TensorBoardLayout, Transcripts
from callbacks.showing import show_figure, show_transcripts
from gigpo_lightning.figures import Transcript, group_size_shares, scalar_layout
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data

TOLD = Transcript(markdown="it won", columns=["step", "action"], rows=[["0", "go north"]])


class Keeper(Callback):
    """Keeps the rollouts."""

    def __init__(self):
        self.rollouts = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.rollouts.append(trainer.datamodule.experience)


def run(folder, logger, *callbacks, **options):
    """Three epochs, evaluated before and after; with every callback that shows something, or these."""
    module, keeper = tiny_module(), Keeper()
    shown = callbacks or (
        *(TensorBoardLayout(), AnchorStats(), GroupFigure(every_n_epochs=2), RolloutMetrics()),
        *(HeldOutEvaluation(), Transcripts()),
    )
    trainer = quiet_trainer(
        folder,
        *(ScriptedSync(), keeper, *shown),
        logger=logger,
        max_epochs=3,
        check_val_every_n_epoch=3,
        num_sanity_val_steps=-1,
    )
    trainer.fit(module, walking_data(random_walk(module), **options))
    return trainer, keeper.rollouts


def events_of(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    return events


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A run's events and rollouts."""
    folder = tmp_path_factory.mktemp("shown")
    trainer, rollouts = run(folder, TensorBoardLogger(folder))
    return events_of(trainer.log_dir), rollouts


@pytest.mark.slow
def test_the_layout_is_written_once_and_as_it_is(shown):
    events, _ = shown
    (written,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(written.tensor_proto.string_val[0])
    assert {
        category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
        for category in layout.category
    } == {group: {chart: tags for chart, (_, tags) in charts.items()} for group, charts in scalar_layout().items()}


@pytest.mark.slow
def test_every_chart_has_something_to_show(shown):
    events, _ = shown
    tags = [*events.Tags()["scalars"], "sync/max_abs_logprob_error"]  # a script has no weights to compare
    empty = [
        chart
        for charts in scalar_layout().values()
        for chart, (_, patterns) in charts.items()
        if not any(re.match(pattern, tag) for pattern in patterns for tag in tags)
    ]
    assert empty == []


def test_the_shares_of_group_sizes_are_those_of_each_rollout(shown):
    events, rollouts = shown
    for name in group_size_shares(rollouts[0].credit.step_group_id):
        logged = [event.value for event in events.Scalars(name)]
        assert logged == pytest.approx([group_size_shares(each.credit.step_group_id)[name] for each in rollouts])


def test_the_histograms_count_groups_and_steps(shown):
    events, rollouts = shown
    for epoch, rollout in enumerate(rollouts):
        sizes = events.Histograms("credit/anchor_group_size")[epoch].histogram_value
        assert (sizes.num, sizes.sum) == (rollout.credit.step_group_id.max() + 1, len(rollout.table))
        for name in ("episode_advantage", "step_advantage"):
            advantages = events.Histograms(f"credit/{name}")[epoch].histogram_value
            values = getattr(rollout.credit, name)
            assert (advantages.num, advantages.min, advantages.max) == (len(values), values.min(), values.max())


def test_a_group_is_drawn_every_nth_epoch(shown):
    events, _ = shown
    images = events.Images("rollout/group")
    assert len(images) == 2  # epochs 0 and 2 of three
    picture = np.asarray(Image.open(io.BytesIO(images[0].encoded_image_string)).convert("RGB"))
    assert picture.shape == (images[0].height, images[0].width, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_the_outcomes_of_every_evaluation_are_drawn(shown):
    events, _ = shown
    first, last = events.Images("held_out/valid_seen/outcomes")
    assert first.width < last.width  # the first has nothing to be compared with


@pytest.mark.slow
def test_histograms_may_come_less_often_or_never(tmp_path):
    for number, every in enumerate((2, 0)):
        logger = TensorBoardLogger(tmp_path, version=number)
        trainer, _ = run(tmp_path, logger, AnchorStats(histograms_every_n_epochs=every))
        tags = events_of(trainer.log_dir).Tags()["histograms"]
        assert bool(tags) == bool(every)
        if every:
            assert len(events_of(trainer.log_dir).Histograms("credit/step_advantage")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("loggers", ["csv", "none", "both"])
def test_what_a_logger_cannot_show_is_skipped(tmp_path, loggers):
    of = {
        "csv": CSVLogger(tmp_path),
        "none": False,
        "both": [CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="board")],
    }
    trainer, rollouts = run(tmp_path, of[loggers])
    assert len(rollouts) == 3
    copies = tmp_path / trainer.log_dir  # without a logger that is the trainer's default folder
    assert (copies / "figures/rollout/group/epoch_2.png").is_file()
    assert (copies / "figures/held_out/valid_seen/outcomes/version_3.png").is_file()
    assert (copies / "transcripts/held_out/valid_seen/version_3.md").is_file()
    if loggers == "both":
        assert "rollout/group" in events_of(trainer.loggers[1].log_dir).Tags()["images"]
    if loggers != "none":
        assert "anchors/group_size_share/2-5" in (tmp_path / trainer.loggers[0].log_dir / "metrics.csv").read_text()


def test_of_many_figures_the_first_and_the_latest_are_kept(tmp_path):
    trainer = quiet_trainer(tmp_path)
    for epoch in (0, 1, 2, 9, 10, 11):
        show_transcripts(trainer, str(tmp_path), "rollout", f"epoch_{epoch}", {"best": TOLD})
    found = sorted(path.name for path in (tmp_path / "transcripts/rollout").iterdir())
    assert found == ["epoch_0.md", "epoch_10.md", "epoch_11.md", "epoch_9.md"]


def test_a_figure_goes_to_a_logger_of_images_and_an_episode_to_one_of_tables(tmp_path):
    class Gallery(Logger):
        name = version = "gallery"
        experiment = None

        def __init__(self):
            super().__init__()
            self.shown = {}

        def log_metrics(self, metrics, step=None):
            pass

        log_hyperparams = log_metrics

        def log_image(self, key, images, step=None):
            self.shown[key] = images

        def log_text(self, key, columns, data, step=None):
            self.shown[key] = [columns, *data]

    trainer = quiet_trainer(tmp_path, logger=(gallery := Gallery()))
    assert show_figure(trainer, None, "rollout/group", "epoch_0", Figure(figsize=(2, 1), dpi=100))
    show_transcripts(trainer, None, "rollout", "epoch_0", {"best": TOLD})
    (picture,) = gallery.shown["rollout/group"]
    assert (picture.shape, picture.dtype) == ((100, 200, 3), np.uint8)
    assert gallery.shown["rollout/best"] == [TOLD.columns, *TOLD.rows]


@pytest.mark.slow
def test_without_a_logger_of_figures_the_log_has_the_outcomes(tmp_path, caplog):
    caplog.set_level("INFO")
    run(tmp_path, False, HeldOutEvaluation())
    number = next(n for n, line in enumerate(caplog.messages) if line.startswith("held-out valid_seen at version 3"))
    table = caplog.messages[number : number + 5]
    assert table[0].endswith("the first evaluation was at version 0")
    assert table[1].split() == ["won", "step", "limit", "ended", "cut", "off", "invalid", "actions"]
    near, changes, near_again = (line.split() for line in table[2:])  # the split has near goals alone
    assert near[0] == near_again[0] == "near"
    assert changes == ["won", "both", "won", "only", "now", "won", "only", "before", "lost", "both"]
    assert sum(map(int, near[1:])) == sum(map(int, near_again[1:]))


@pytest.mark.slow
def test_with_a_logger_of_figures_the_log_stays_short(tmp_path, caplog):
    caplog.set_level("INFO")
    run(tmp_path, TensorBoardLogger(tmp_path), HeldOutEvaluation())
    assert [line for line in caplog.messages if "step limit" in line] == []


@pytest.mark.slow
def test_what_is_shown_changes_nothing_in_what_is_learnt(tmp_path):
    weights = []
    for callbacks in ((), (RolloutMetrics(),)):
        trainer, _ = run(tmp_path, TensorBoardLogger(tmp_path), *callbacks, deterministic=True)
        weights.append([each.detach().clone() for each in trainer.lightning_module.policy.parameters()])
    assert all(ours.equal(theirs) for ours, theirs in zip(*weights, strict=True))


@pytest.mark.parametrize(
    ("callback", "name"), [(GroupFigure, "every_n_epochs"), (AnchorStats, "histograms_every_n_epochs")]
)
def test_a_negative_interval_is_refused(callback, name):
    with pytest.raises(ValueError, match=f"{name} must be >= 0, got -1"):
        callback(**{name: -1})
