"""What is said of environments that fail: each cause once, with its traceback; then it is counted."""

import logging
import re
from collections import Counter

_logger = logging.getLogger(__name__)

_MOST_CAUSES = 20  # with a traceback; whatever fails in a new way each time must not fill the disk
_NAMED = 3  # tasks
_PLACE = re.compile(r'^  File "', re.MULTILINE)


class FailureLog:
    """Tells a user of failures as they come, and at a rollout's end how many more there were."""

    def __init__(self) -> None:
        self._causes: set[str] = set()
        self._again: Counter[str] = Counter()
        self._dropped: list[str] = []

    def note(self, task_id: str, failure: str, *, dropped: bool) -> None:
        """Take in a failure; ``dropped`` says whether its task has used up its attempts."""
        if dropped:
            self._dropped.append(task_id)
        cause, consequence = cause_of(failure), "the task is dropped" if dropped else "the episode begins again"
        if cause in self._causes:
            self._again[last_line(failure)] += 1
            _logger.debug("task %r: %s, %s", task_id, last_line(failure), consequence)
            return
        said = failure.strip() if len(self._causes) < _MOST_CAUSES else last_line(failure)
        self._causes.add(cause)
        _logger.warning("task %r: its environment failed, %s:\n%s", task_id, consequence, said)

    def end_rollout(self, name: str) -> None:
        """Say what was not said one by one: repeated failures, and the tasks that were dropped."""
        if self._again:
            (often, times), total = self._again.most_common(1)[0], self._again.total()
            most = f", {times} times" if len(self._again) > 1 else ""
            _logger.warning(
                "%s: environments failed %d more times, as in the log above: %s%s", name, total, often, most
            )
        if self._dropped:
            _logger.warning("%s: dropped %s", name, named(self._dropped))
        self._again, self._dropped = Counter(), []


def named(task_ids: list[str]) -> str:
    """The first few of some tasks, and the number of the others.

    Example:
        >>> named(["a", "b", "c", "d", "e"])
        "the tasks 'a', 'b', 'c' and 2 more"
    """
    more = f" and {len(task_ids) - _NAMED} more" if len(task_ids) > _NAMED else ""
    return f"the task{'s' * (len(task_ids) > 1)} {', '.join(map(repr, task_ids[:_NAMED]))}{more}"


def cause_of(failure: str) -> str:
    """What failures for one reason share: the places of a traceback, or a rule without the value that broke it."""
    places = [line for line in failure.splitlines() if _PLACE.match(line)]
    if places:
        return "\n".join((*places, last_line(failure).partition(":")[0]))
    return re.sub(r"\d+", "0", last_line(failure).partition(", but ")[0])


def last_line(failure: str) -> str:
    """The line of a traceback that says what was raised."""
    return (failure.strip() or "no reason was given").splitlines()[-1]


def in_short(failure: str) -> str:
    """A failure in one line, for an error that follows on its traceback."""
    return f"{last_line(failure)}; the log has its traceback" if _PLACE.search(failure) else last_line(failure)
