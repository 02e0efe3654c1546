"""The callbacks that every run of ``GiGPOModule`` has, unless it names its own."""

from collections.abc import Iterable

from lightning.pytorch import Callback

from callbacks.anchor_stats import AnchorStats
from callbacks.group_figure import GroupFigure
from callbacks.held_out_evaluation import HeldOutEvaluation
from callbacks.rollout_metrics import RolloutMetrics
from callbacks.run_manifest import RunManifest
from callbacks.tensorboard_layout import TensorBoardLayout
from callbacks.transcripts import Transcripts
from callbacks.update_threads import UpdateThreads
from callbacks.weight_sync import WeightSync

STANDARD: tuple[type[Callback], ...] = (
    RunManifest,
    WeightSync,
    RolloutMetrics,
    AnchorStats,
    GroupFigure,
    TensorBoardLayout,
    HeldOutEvaluation,
    Transcripts,
    UpdateThreads,
)


def missing_callbacks(named: Iterable[type]) -> list[type[Callback]]:
    """The standard callbacks that are not among some classes; whatever syncs an engine stands for ``WeightSync``.

    Example:
        >>> [kind.__name__ for kind in missing_callbacks(STANDARD[1:])]
        ['RunManifest']
    """
    classes = list(named)
    syncs = any(hasattr(kind, "sync") for kind in classes)
    return [
        kind
        for kind in STANDARD
        if not any(issubclass(each, kind) for each in classes) and not (kind is WeightSync and syncs)
    ]
