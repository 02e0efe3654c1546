"""Callbacks: weight sync and its proof, statistics, evaluation, figures, transcripts, exports, stopping, going on."""

from callbacks.anchor_stats import AnchorStats
from callbacks.export import Export
from callbacks.group_figure import GroupFigure
from callbacks.held_out_evaluation import HeldOutEvaluation
from callbacks.optimizer_settings import OptimizerSettings
from callbacks.preemption import Preemption
from callbacks.rollout_metrics import RolloutMetrics
from callbacks.run_manifest import RunManifest
from callbacks.standard import STANDARD, missing_callbacks
from callbacks.tensorboard_layout import TensorBoardLayout
from callbacks.transcripts import Transcripts
from callbacks.update_threads import UpdateThreads
from callbacks.weight_sync import WeightSync

__all__ = [
    "STANDARD",
    "AnchorStats",
    "Export",
    "GroupFigure",
    "HeldOutEvaluation",
    "OptimizerSettings",
    "Preemption",
    "RolloutMetrics",
    "RunManifest",
    "TensorBoardLayout",
    "Transcripts",
    "UpdateThreads",
    "WeightSync",
    "missing_callbacks",
]
