"""The numbers of a step that an estimator is told to read: its reward, or one of its scores.

Shape letters: S = rows of the step table.
"""

from jaxtyping import Float64
from numpy import ndarray

from gigpo_lightning.trajectory import StepTable


def named_score(table: StepTable, argument: str, name: str) -> Float64[ndarray, " S"]:
    """A column of ``table.scores``.

    Args:
        table: The rollout.
        argument: The estimator's argument that names the column, for the error.
        name: The column.

    Returns:
        Its numbers, not a number where a step has none, ``(S,)``.

    Raises:
        ValueError: If there is no such column.
    """
    if name not in table.scores:
        known = ", ".join(sorted(table.scores)) or "none"
        raise ValueError(
            f"{argument} must name a score that the steps have (from info['scores'] or data.scorers; here: {known}), "
            f"got {name!r}"
        )
    column: Float64[ndarray, " S"] = table.scores[name]
    return column
