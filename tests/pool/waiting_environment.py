"""An environment that waits as it is told to; a worker process that imports it imports nothing else."""

import threading
import time

import gymnasium

PATIENCE = 30  # seconds, after which what would wait for ever has failed

_all_here = threading.Barrier(4)
_released = threading.Event()


class WaitingEnvironment(gymnasium.Env[str, str]):
    """Waits for others of its worker process, as it is told to."""

    waits = True

    def reset(self, *, seed=None, options=None):
        return "", {}

    def step(self, action):
        if action == "meet":
            _all_here.wait(PATIENCE)
        if action == "be released" and not _released.wait(PATIENCE):
            raise TimeoutError("nobody came")
        if action == "release":
            _released.set()
        if action == "hang":
            time.sleep(PATIENCE)
        return action, 0.0, False, False, {}
