"""What a process has once: connections, locks, and what has been read."""

from typing import Any


class PerProcess:
    """Something that exists once a process: a deep copy is the object itself, an unpickled one starts anew.

    Attributes that begin with an underscore belong to one process: they are not pickled, and ``_start`` makes them.
    """

    def _start(self) -> None:
        """Make the attributes of this process."""

    def __deepcopy__(self, memo: dict[int, object]) -> "PerProcess":
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()
