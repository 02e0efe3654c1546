"""Stages of gpu_day.py that go wrong, each in its way; only the standard library, so that they begin at once."""

import os
import signal
import subprocess
import sys
import time

COMPLAINTS = 5000


def sound(part, shape, recorder):
    recorder.line(figure=1)


def never_ends(part, shape, recorder):
    """Says what it knows, starts a process in a session of its own, and goes on for ever."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print("printed before the end")
    recorder.line(sleeper=sleeper.pid)
    time.sleep(600)


def crashes(part, shape, recorder):
    recorder.line(figure=2)
    os.kill(os.getpid(), signal.SIGSEGV)


def raises(part, shape, recorder):
    for number in range(COMPLAINTS):
        sys.stderr.write(f"complaint {number}\n")
    recorder.line(figure=3)
    raise RuntimeError("this stage is broken")
