"""An environment that does to its process what its action says; it imports neither torch nor an engine."""

import multiprocessing
import os
import subprocess
import sys
import time

import gymnasium

_FOREVER = 600.0


def _explode() -> None:
    raise ImportError("no module named elsewhere")


class Elsewhere:
    """An anchor that can be pickled here and unpickled nowhere."""

    def __reduce__(self):
        return _explode, ()


class MisbehavingEnvironment(gymnasium.Env[str, str]):
    """Never ends by itself; says in which process it lives."""

    def reset(self, *, seed=None, options=None):
        return f"process {os.getpid()}", {}

    def step(self, action):
        said = getattr(self, action)()
        return f"process {os.getpid()}", 0.0, False, False, said or {}

    def nothing(self):
        pass

    def exits(self):
        sys.exit(0)

    def interrupts(self):
        raise KeyboardInterrupt

    def forks(self):
        os.fork()  # and both go on

    def forks_and_exits(self):
        if os.fork() == 0:
            sys.exit(0)

    def forks_and_dies(self):
        if os.fork() == 0:
            time.sleep(_FOREVER)  # with the worker's pipe
        os._exit(9)

    def sleeps(self):
        time.sleep(_FOREVER)

    def has_children(self):
        """Starts one that ends by itself and one that is ended; the exit codes of both."""
        context = multiprocessing.get_context("fork")
        quick = context.Process(target=time.sleep, args=(0,))
        slow = subprocess.Popen(["sleep", str(_FOREVER)])
        quick.start()
        slow.terminate()
        quick.join()
        return {"anchor": (quick.exitcode, slow.wait())}

    def leaves_a_child(self):
        return {"anchor": subprocess.Popen(["sleep", str(_FOREVER)]).pid}

    def goes_elsewhere(self):
        os.chdir("/")

    def says_where(self):
        return {"anchor": os.getcwd()}

    def cuts_its_wires(self):
        os.closerange(3, 256)

    def anchors_elsewhere(self):
        return {"anchor": Elsewhere()}

    def warm_up(self):
        if "WARM_UP" in os.environ:
            getattr(self, os.environ["WARM_UP"])()


class BadAtGoodbyes(MisbehavingEnvironment):
    """Cannot be closed."""

    def close(self):
        sys.exit(0)


class Unsendable(MisbehavingEnvironment):
    """Cannot be pickled."""

    def __init__(self):
        self.key = lambda: 0


def play_until_killed(pids) -> None:
    """Begin a step that never ends in a worker that has a child; says who is there."""
    from gigpo_lightning.environments.base import Task
    from gigpo_lightning.pool.workers import WorkerPool

    pool = WorkerPool(MisbehavingEnvironment(), 1, 1)
    task = Task(task_id="a", kind="any")
    slot = pool.take_slot(task)
    pool.reset(slot, task)
    pool.poll(block=True)
    pool.step(slot, "leaves_a_child")
    (event,) = pool.poll(block=True)
    pool.step(slot, "sleeps")
    pids.send((pool.processes[0].pid, event.anchor))
    time.sleep(_FOREVER)
