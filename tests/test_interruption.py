"""A rollout is dropped at once, by every process of a job, and leaves nothing behind."""

import random
import socket
from multiprocessing import get_context

import pytest
import torch.distributed

from gigpo_lightning.errors import Preempted
from gigpo_lightning.interruption import play_unless_stopped
from gigpo_lightning.rollout import ScriptedEngine
from tests.prompts.word_tokenizer import GrowingTokenizer
from tests.rollout.players import gridworld_tasks, make_collector, walker


class Endless(ScriptedEngine):
    """Writes nothing for as long as there is nothing else to submit."""

    cancelled = False

    def poll_unless(self, ready):
        while not ready():
            pass
        return []

    def cancel(self):
        self.cancelled = True


@pytest.mark.parametrize("deterministic", [False, True])
def test_an_interrupted_rollout_does_not_wait_for_the_engine(deterministic):
    asked = iter([False] * 5)
    engine = Endless(walker(GrowingTokenizer(), "up"))
    collector = make_collector(engine=engine, deterministic=deterministic, interrupted=lambda: next(asked, True))
    with pytest.raises(Preempted, match="epoch 3 was interrupted"):
        collector.play(gridworld_tasks(2), 2, noise_key=0, name="epoch 3")
    assert engine.cancelled


def test_nothing_is_begun_once_the_run_was_asked_to_stop():
    begun: list[int] = []
    with pytest.raises(Preempted):
        play_unless_stopped(lambda: begun.append(1), lambda: True)
    assert begun == []


def test_what_was_played_is_given_back():
    assert play_unless_stopped(lambda: [1, 2]) == [1, 2]


def test_a_dropped_rollout_has_drawn_nothing():
    def play() -> int:
        drawn.append(random.random())
        raise Preempted("in the middle")

    drawn: list[float] = []
    for _ in range(2):
        with pytest.raises(Preempted):
            play_unless_stopped(play)
    assert drawn[0] == drawn[1] == random.random()


def one_of_two(rank: int, port: int, results) -> None:
    """The second of two processes is asked to stop, when both have nearly played."""
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)

    def play() -> str:
        if rank == 1:
            raise Preempted("asked")
        return "played"

    try:
        results.put((rank, play_unless_stopped(play)))
    except Preempted:
        results.put((rank, "dropped"))
    results.put((rank, play_unless_stopped(lambda: "played")))
    with pytest.raises(Preempted, match="not begun"):  # by none, or those that began would wait for the other
        play_unless_stopped(lambda: torch.distributed.barrier(), lambda: rank == 1)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_what_one_process_is_asked_to_drop_is_dropped_by_all():
    context = get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = context.Queue()
    processes = [context.Process(target=one_of_two, args=(rank, port, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=60) for _ in range(4))
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert found == [(0, "dropped"), (0, "played"), (1, "dropped"), (1, "played")]
