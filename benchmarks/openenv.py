"""Steps a second of an OpenEnv server's sessions, states included: ``python -m benchmarks.openenv [--url URL]``.

Without ``--url`` the server is the one of the tests, which was written without the ``openenv`` package, in a process
of its own. With ``--package`` it is a server of the installed ``openenv``.
"""

import argparse
import copy
import threading
import time

from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.openenv import OpenEnvEnvironment
from tests.environments.openenv.served import served


def measure(url: str, sessions: int, seconds: float) -> float:
    """Steps a second of sessions that each step as fast as they can."""
    prototype = OpenEnvEnvironment(url)
    counts, end = [0] * sessions, threading.Event()

    def play(number: int, environment: OpenEnvEnvironment) -> None:
        environment.reset(options={"task": Task(task_id="0", kind="hall", payload={"seed": number})})
        while not end.is_set():
            *_, done, _, _ = environment.step("stay")
            counts[number] += 1
            if done:
                environment.reset(options={"task": Task(task_id="0", kind="hall", payload={"seed": number})})

    copies = [copy.deepcopy(prototype) for _ in range(sessions)]
    threads = [threading.Thread(target=play, args=each) for each in enumerate(copies)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    before, started = sum(counts), time.perf_counter()
    time.sleep(seconds)
    rate = (sum(counts) - before) / (time.perf_counter() - started)
    end.set()
    for thread in threads:
        thread.join()
    for each in copies:
        each.close()
    return rate


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--package", action="store_true")
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    if arguments.url:
        print(f"{measure(arguments.url, arguments.sessions, arguments.seconds):,.0f} steps/s")
        return
    with served("text" if arguments.package else "by_hand") as url:
        print(f"{measure(url, arguments.sessions, arguments.seconds):,.0f} steps/s")


if __name__ == "__main__":
    main()
