"""Lines that say how far a slow part of a run is, so that none is silent."""

import logging
import time
from collections.abc import Callable

from gigpo_lightning.ranks import place

_logger = logging.getLogger(__name__)
_NO_NEWS = 5.0  # seconds; whoever reads that so little is left may as well read the result


class Countdown:
    """Says every so many seconds how far something is and how long it may still take; a quick thing says nothing.

    Args:
        name: What is under way, such as ``"update: minibatch"``.
        every: Seconds between lines.
        clock: Gives the time, in seconds.

    Example:
        >>> seconds = iter([0.0, 30.0])
        >>> countdown = Countdown("update: minibatch", clock=lambda: next(seconds))
        >>> countdown.line(0.0, 4), countdown.line(1.5, 4)
        ('', 'update: minibatch 2 of 4, about 50 s left')
    """

    def __init__(self, name: str, every: float = 20.0, clock: Callable[[], float] = time.perf_counter) -> None:
        self.name = name
        self.every = every
        self._clock = clock
        self._started = self._due = 0.0
        self._last = float("inf")

    def line(self, done: float, total: int) -> str:
        """The line that is due, or nothing.

        Args:
            done: How many are done, parts of one included; less than the last time begins anew.
            total: How many there are.
        """
        now = self._clock()
        if done < self._last:
            self._started, self._due = now, now + self.every
        self._last = done
        if now < self._due or not 0 < done < total:
            return ""
        left = (now - self._started) * (total - done) / done
        if left < _NO_NEWS:
            return ""
        self._due = now + self.every
        return f"{self.name} {min(total, int(done) + 1)} of {total}, about {left:.0f} s left"

    def reach(self, done: float, total: int) -> None:
        """Log the line that is due, on the first rank."""
        line = self.line(done, total)
        if line and place()[0] == 0:
            _logger.info(line)
