"""What is shown of a run beside numbers: figures, layouts, and episodes to read; drawn here, sent by callbacks."""

from gigpo_lightning.figures.credited import CreditedEpisode, credited_groups, most_varied_group
from gigpo_lightning.figures.group_figure import draw_group
from gigpo_lightning.figures.group_sizes import anchor_group_sizes, group_size_shares
from gigpo_lightning.figures.layout import scalar_layout
from gigpo_lightning.figures.outcome_figure import draw_outcomes
from gigpo_lightning.figures.outcomes import EvaluatedEpisode, as_lines, changes_by_kind, outcomes_by_kind, with_total
from gigpo_lightning.figures.transcript import Transcript, best_median_worst, transcript

__all__ = [
    "CreditedEpisode",
    "EvaluatedEpisode",
    "Transcript",
    "anchor_group_sizes",
    "as_lines",
    "best_median_worst",
    "changes_by_kind",
    "credited_groups",
    "draw_group",
    "draw_outcomes",
    "group_size_shares",
    "most_varied_group",
    "outcomes_by_kind",
    "scalar_layout",
    "transcript",
    "with_total",
]
