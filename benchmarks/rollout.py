"""How fast rollouts are: ours against lock-step, by length of the episodes, and against the engine alone.

    python benchmarks/rollout.py [--config configs/alfworld/tiny_cpu.yaml] [--cap 50] [--tasks 16] [--group 8]

All variants in one run: the same real engine, the same tasks, policy, noise and ALFWorld games. An episode is cut at a
length drawn beforehand, so that the mean length is a chosen share of the cap. Lock-step waits for every episode at
every turn; "kept" goes on writing replies for finished episodes, as the reference code does, but does not step them.
Use two idle cores.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from alfworld_engine import measure
from rich.console import Console
from rich.table import Table

from callbacks import WeightSync
from gigpo_lightning.cli import build_cli, share_the_machine
from gigpo_lightning.environments.base import Task
from gigpo_lightning.rollout import Collector, Completion, GenerationRequest, make_pool
from gigpo_lightning.rollout.episode import Episode, Group

OUT = Console(width=100)


class CutEnvironment(gymnasium.Env[str, str]):
    """Another environment, cut at the length that the task names for the next episode."""

    def __init__(self, inner: gymnasium.Env[str, str]) -> None:
        self.inner = inner
        self.left = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode; the task's payload holds its length and the real task."""
        assert options is not None
        self.left = options["task"].payload["length"]
        return self.inner.reset(options={"task": options["task"].payload["task"]})

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Step; a success ends nothing, or lengths would not be those that were drawn."""
        observation, reward, _, _, info = self.inner.step(action)
        self.left -= 1
        return observation, float(reward), False, self.left <= 0, info


class PlaybackEnvironment(gymnasium.Env[str, str]):
    """Says what another episode heard, whatever is done: an environment that costs nothing."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin a recorded episode."""
        assert options is not None
        self.record, self.turn = options["task"].payload["record"], 0
        return self.record[0], {"admissible_actions": ["look"], "instruction": self.record[0]}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Go on to the next observation."""
        self.turn += 1
        over = self.turn == len(self.record) - 1
        return self.record[self.turn], 0.0, over, False, {"admissible_actions": ["look"]}


def lock_step(collector: Collector, tasks: Sequence[Task], *, keep_finished: bool) -> None:
    """Play one episode a task, turn by turn, and wait for the slowest at each."""
    episodes = []
    for number, task in enumerate(tasks):
        slot = collector.pool.take_slot(task)
        assert slot is not None
        episodes.append(Episode(group=Group(task=task, index=number, noise_key="lock-step"), index=0, slot=slot))
        collector.pool.reset(slot, task)
    going = {episode.slot: episode for episode in episodes}
    turn = 0
    while going:
        hear_all(collector, going)
        if not going:
            break
        for episode, reply in write_all(collector, episodes if keep_finished else list(going.values()), turn):
            if episode.slot in going:
                collector.pool.step(episode.slot, collector.player.act(episode, reply))
        turn += 1
    for episode in episodes:
        collector.pool.free_slot(episode.slot)


def hear_all(collector: Collector, going: dict[int, Episode]) -> None:
    """Wait for every environment, and take out the episodes that have ended."""
    expected = len(going)
    while expected:
        for event in collector.pool.poll(block=True):
            expected -= 1
            if collector.player.observe(going[event.slot], event) is not None:
                del going[event.slot]


def write_all(collector: Collector, episodes: Sequence[Episode], turn: int) -> list[tuple[Episode, Completion]]:
    """Ask for a reply to every episode, and wait for the last."""
    asked = {}
    for number, episode in enumerate(episodes):
        episode.request = replace(collector.player.request(episode), request_id=f"{number}/{turn}")
        asked[episode.request.request_id] = episode
        collector.engine.submit(episode.request)
    replies: list[tuple[Episode, Completion]] = []
    while len(replies) < len(asked):
        replies += [(asked[completion.request_id], completion) for completion in collector.engine.poll()]
    return replies


def cut_tasks(tasks: Sequence[Task], group: int, cap: int, share: float) -> list[Task]:
    """One task an episode, with lengths from a geometric distribution that is cut at the cap, of the mean wanted."""
    draw = np.random.default_rng(0)
    lengths = np.full(len(tasks) * group, cap)
    for rate in np.geomspace(1e-4, 0.999, 400):
        drawn = np.minimum(draw.geometric(rate, len(lengths)), cap)
        if abs(drawn.mean() - share * cap) < abs(lengths.mean() - share * cap):
            lengths = drawn
    return [
        Task(task_id=f"{task.task_id} {number}", kind=task.kind, payload={"task": task, "length": int(length)})
        for number, (task, length) in enumerate(
            zip(np.repeat(np.array(tasks, dtype=object), group), lengths, strict=True)
        )
    ]


def collector_of(cli: Any, environment: Any, num_slots: int, cap: int, workers: int, **options: Any) -> Collector:
    """A collector on the config's engine, prompt and policy."""
    data, module = cli.datamodule, cli.model
    return Collector(
        engine=data.player.engine,
        pool=make_pool(environment, num_slots, workers),
        prompt=data.player.prompt,
        tokenizer=module.policy.tokenizer,
        sampling=data.player.sampling,
        max_steps=cap,
        seed=0,
        **options,
    )


def forget_prefixes(cli: Any) -> None:
    """Every variant begins with an empty prefix cache."""
    cli.datamodule.player.engine.load_weights(cli.model.policy.named_weights(), cli.model.policy_version)


def against_the_stock_environment(tasks: Sequence[Task]) -> None:
    """ALFWorld's steps on one core, the fast engine's against the unmodified one's."""
    seconds = {name: measure(tasks, 30, fast)[2] for name, fast in (("stock", False), ("fast", True))}
    ratio = seconds["stock"] / seconds["fast"]
    OUT.print(f"ALFWorld: {1 / seconds['fast']:.0f} steps/s, {1 / seconds['stock']:.0f} unmodified: {ratio:.0f} times")


def against_lock_step(
    cli: Any, tasks: Sequence[Task], group: int, cap: int, shares: Sequence[float], repeats: int
) -> None:
    """The table of variants by length."""
    environment = CutEnvironment(cli.datamodule.player.environment)
    report = Table("mean length", "variant", "episodes/s", "ours is faster by", title=f"{len(tasks) * group} episodes")
    for share in shares:
        played = cut_tasks(tasks, group, cap, share)
        mean = np.mean([task.payload["length"] for task in played])
        collector = collector_of(cli, environment, len(played), cap, 1)
        careful = collector_of(cli, environment, len(played), cap, 1, deterministic=True)
        careful.pool = collector.pool
        variants: dict[str, Callable[[], object]] = {
            "ours": partial(collector.play, played, 1, noise_key=0, name="ours"),
            "ours, deterministic": partial(careful.play, played, 1, noise_key=0, name="deterministic"),
            "lock-step, finished dropped": partial(lock_step, collector, played, keep_finished=False),
            "lock-step, finished kept": partial(lock_step, collector, played, keep_finished=True),
        }
        variants["ours"]()  # every game has been parsed once
        seconds = dict.fromkeys(variants, float("inf"))
        for _ in range(repeats):
            for name, run in variants.items():
                forget_prefixes(cli)
                started = time.perf_counter()
                run()
                seconds[name] = min(seconds[name], time.perf_counter() - started)
        collector.pool.close()
        for name, time_taken in seconds.items():
            ratio = time_taken / seconds["ours"]
            report.add_row(f"{mean:.1f} of {cap}", name, f"{len(played) / time_taken:.1f}", f"{ratio:.2f}")
    OUT.print(report)


def against_the_engine(cli: Any, tasks: Sequence[Task], cap: int, repeats: int) -> None:
    """The engine's own speed, with all requests of a rollout given to it at once."""
    recorder = collector_of(cli, CutEnvironment(cli.datamodule.player.environment), len(tasks), cap, 1)
    groups, _ = recorder.play(tasks, 1, noise_key=0, name="record")
    recorder.pool.close()
    scripted = [
        Task(
            task_id=f"{number}",
            kind="any",
            payload={
                "record": [s.observation for s in g.trajectories[0].steps] + [g.trajectories[0].final_observation]
            },
        )
        for number, g in enumerate(groups)
    ]
    collector = collector_of(cli, PlaybackEnvironment(), len(tasks), cap, 0)
    engine, requests = cli.datamodule.player.engine, []
    submit = engine.submit

    def keep(request: GenerationRequest) -> None:
        requests.append(request)
        submit(request)

    engine.submit = keep
    _, progress = collector.play(scripted, 1, noise_key=0, name="keep")
    engine.submit = submit
    best = {"rollout": 0.0, "saturated": 0.0}
    for _ in range(repeats):
        forget_prefixes(cli)
        started = time.perf_counter()
        _, progress = collector.play(scripted, 1, noise_key=0, name="rollout")
        best["rollout"] = max(best["rollout"], progress.tokens / (time.perf_counter() - started))
        forget_prefixes(cli)
        started, tokens, done = time.perf_counter(), 0, 0
        for request in requests:
            submit(request)
        while done < len(requests):
            for completion in engine.poll():
                done += 1
                tokens += len(completion.token_ids)
        best["saturated"] = max(best["saturated"], tokens / (time.perf_counter() - started))
    share = best["rollout"] / best["saturated"]
    OUT.print(
        f"scripted environment, {len(tasks)} episodes, {len(requests):,} requests: {best['rollout']:.0f} tokens/s in "
        f"a rollout, {best['saturated']:.0f} tokens/s all at once: {share:.0%}"
    )


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/alfworld/tiny_cpu.yaml")
    parser.add_argument("--cap", type=int, default=50)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.25, 0.5, 0.75], help="mean length by cap")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    share_the_machine()
    cli: Any = build_cli(["--config", arguments.config], run=False)
    cli.datamodule.prepare_data()
    cli.model.configure_model()
    WeightSync().sync(cli.model, cli.datamodule.player.engine)
    tasks = cli.datamodule.player.tasks.panel("train").tasks
    against_the_stock_environment(tasks[:7])
    chosen = tasks[: arguments.tasks]
    against_lock_step(cli, chosen, arguments.group, arguments.cap, arguments.shares, arguments.repeats)
    for number in (arguments.tasks, 2 * arguments.tasks):
        played = cut_tasks(tasks[:number], arguments.group, arguments.cap, 0.75)
        against_the_engine(cli, played, arguments.cap, arguments.repeats)


if __name__ == "__main__":
    main()
