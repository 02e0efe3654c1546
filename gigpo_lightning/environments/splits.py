"""What makes a split a held-out one: it exists, is named once, and has no task of another."""

import logging
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TypeVar

from gigpo_lightning.environments.base import TaskPanel, TaskSource

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
_UNLESS = "allow_shared_tasks: true allows it"
_NO_SUCH_SPLIT = "a split that cannot exist"


def deal(items: Sequence[_T], shares: Mapping[str, float]) -> dict[str, Sequence[_T]]:
    """Deal items out to splits, in their order, to each its share of them all.

    Example:
        >>> deal("abcde", {"train": 0.6, "test": 0.4})
        {'train': 'abc', 'test': 'de'}
    """
    bounds = [round(total * len(items)) for total in accumulate(shares.values(), initial=0.0)]
    return {split: items[low:high] for split, (low, high) in zip(shares, pairwise(bounds), strict=True)}


def read_panel(source: TaskSource, split: str) -> TaskPanel:
    """Ask a source for a split's tasks.

    Raises:
        ValueError: If the source does not know the split, or lists no task for it.
    """
    try:
        panel = source.panel(split)
    except LookupError as error:  # of a source with a dictionary of splits
        raise ValueError(f"split must be known to {type(source).__name__}, got {split!r}: {error!r}") from error
    if not len(panel):
        raise ValueError(f"split must have at least one task, but {type(source).__name__} lists none for {split!r}")
    return panel


def check_split_names(argument: str, splits: Sequence[str], train_split: str) -> None:
    """Refuse the training split among the held-out ones, and a split that is named twice.

    Raises:
        ValueError: At the first such split; the message names the argument and the split.
    """
    for place, split in enumerate(splits):
        if split == train_split:
            raise ValueError(f"{argument} must not name the split that is trained on, got {split!r} ({_UNLESS})")
        if split in splits[:place]:
            raise ValueError(f"{argument} must name each split once, got {split!r} twice ({_UNLESS})")


def check_apart(argument: str, splits: Sequence[str], panels: Mapping[str, TaskPanel], train_split: str) -> None:
    """Refuse held-out splits that share a task with each other, or with the training split.

    A task is known by its id and its fingerprint: sources may number each split's tasks from 0. Without the training
    split's panel, nothing is compared with that split.

    Raises:
        ValueError: At the first such pair of splits; the message names both and one of the tasks.
    """
    known = {name: {(task.task_id, task.fingerprint) for task in panel.tasks} for name, panel in panels.items()}
    for place, split in enumerate(splits):
        for other in (train_split, *splits[:place]):
            shared = [task_id for task_id, _ in sorted(known[split] & known.get(other, set()))]
            if shared:
                raise ValueError(
                    f"{argument} must share no task with each other or with the split that is trained on, but "
                    f"{len(shared)} of the {len(known[split])} tasks of {split!r} are tasks of {other!r} too, such as "
                    f"{shared[0]!r} ({_UNLESS})"
                )


def with_training_panel(
    panels: Mapping[str, TaskPanel], source: TaskSource, train_split: str
) -> Mapping[str, TaskPanel]:
    """Add the training split's panel to compare with; a machine that only tests may not have it, and is told so."""
    if train_split in panels:
        return panels
    try:
        return {**panels, train_split: read_panel(source, train_split)}
    except (ValueError, OSError) as error:
        _logger.warning("held-out tasks are not compared with those of train_split %r: %s", train_split, error)
        return panels


def check_source(source: TaskSource, splits: Sequence[str]) -> None:
    """Check that a source of tasks keeps the rules that a run relies on; run it on your own.

    Args:
        source: The source; ``prepare`` is called first.
        splits: Its splits, the one that is trained on first.

    Raises:
        ValueError: If it does not know a split, lists other tasks when it is asked again, has one task in two splits,
            or lists tasks for a split that cannot exist.
    """
    source.prepare()
    panels = {split: read_panel(source, split) for split in splits}
    for split, panel in panels.items():
        again = source.panel(split)
        if again.sha256 != panel.sha256:
            raise ValueError(f"a split must always have the same tasks, but {split!r} gave others when asked again")
    train_split, *held_out = splits
    check_split_names("splits", held_out, train_split)
    check_apart("splits", held_out, panels, train_split)
    try:
        found = source.panel(_NO_SUCH_SPLIT)
    except (ValueError, LookupError):
        return
    raise ValueError(
        f"a source must refuse a split that it has not, or a misspelt one would be played, but it lists {len(found)} "
        f"tasks for {_NO_SUCH_SPLIT!r}; raise a ValueError"
    )
