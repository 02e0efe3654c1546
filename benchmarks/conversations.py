"""What conversations cost: the update against TRL's, tokens computed against distinct ones, and the engine's cache.

    python benchmarks/update.py --json

8 tasks × 8 episodes of ALFWorld scenes, 20 turns, the actions on offer listed in every turn, replies of 24 tokens, in
the tokens of SmolLM2. Token counts are of all of them. Times are of one task's episodes, cut to 5 to 20 turns, with
the model's real weights in float32, and each way in a process of its own: processor seconds, forward and backward.

TRL is put into a folder of its own, ``.cache/trl-1.16.0``, so that nothing of it gets into the project's environment.
Activations are computed again in the backward pass everywhere, as TRL's trainer does by default: without that its
rows would need more than 24 GiB. Its own forward is used (``GRPOTrainer._get_per_token_logps_and_entropies`` with the
fused head), on batches of 8. It computes an episode as one padded row, or each step as one. Gradients are compared.
"""

import argparse
import contextlib
import inspect
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig

from gigpo_lightning.environments.alfworld import AlfworldEnvironment, AlfworldTasks
from gigpo_lightning.environments.alfworld.offline.scenes import Scenes
from gigpo_lightning.prompts.chat import ChatPrompt
from gigpo_lightning.rollout import (
    Collector,
    GenerationRequest,
    SamplingParameters,
    ScriptedEngine,
    VLLMEngine,
    make_pool,
)
from gigpo_lightning.token_batch import make_token_batch
from gigpo_lightning.token_trees import Pair, plan_micro_batches, token_trees
from modules import Policy, PretrainedPolicy

GOALS = {
    "tokens_of_rows": 1 / 8,
    "tokens_of_distinct": 1.05,
    "time_of_trl_conversations": 0.6,
    "time_of_trl_steps": 0.12,
    "memory_of_trl_steps": 0.5,
    "cache_hits": 0.95,  # at least; the others at most
}
"""What each figure should be."""

REPLY, TURNS, SHORTEST, BATCH = 24, 20, 5, 8
_WAYS = ("ours", "trl_conversations", "trl_steps")
_ROLE = "You are a household robot in a world of short texts."

ROOT = Path(__file__).resolve().parents[1]
TRL = "trl==1.16.0"
_WITH_TRL = ("datasets", "accelerate", "pandas", "multiprocess", "dill", "pytz", "tzdata", "python-dateutil", "six")
"""What TRL imports and the project does not have."""

Episode = list[Pair]
"""Prompt and reply of each turn."""


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="data/llm", help="folder of SmolLM2-135M-Instruct as a GGUF: make llm")
    parser.add_argument("--trl", type=Path, default=ROOT / ".cache" / TRL.replace("==", "-"), help="folder of TRL")
    parser.add_argument("--scenes", default="data/alfworld_tiny", help="folder of scenes, made if it is not there")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--timed", type=int, default=8, help="episodes whose update is timed")
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of a micro-batch")
    parser.add_argument("--json", action="store_true", help="print one object last")
    parser.add_argument("--way", choices=_WAYS, help=argparse.SUPPRESS)  # measure it in this process
    parser.add_argument("--kept", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.way:
        sys.stdout.write(json.dumps(measure(arguments)) + "\n")
        return
    figures = report(arguments)
    for name, figure in figures.items():
        goal = f"  goal {GOALS[name]:.3g}" if name in GOALS else ""
        sys.stdout.write(f"{name:28}{figure:12.4g}{goal}\n")
    if arguments.json:
        sys.stdout.write(json.dumps(figures) + "\n")


def report(arguments: argparse.Namespace) -> dict[str, float]:
    """All figures: those of ``GOALS``, and what they were made from."""
    tokenizer = model_of(arguments.model).skeleton().tokenizer
    episodes = play(ScriptedEngine(Wanderer(tokenizer)), tokenizer, arguments)
    figures = counts(episodes, arguments) | cache_hits(tokenizer, arguments)
    sys.stderr.write(f"{json.dumps(figures)}\n")
    return figures | times(episodes, arguments)


def install_trl(folder: Path) -> None:
    """Put TRL into a folder, unless it is there."""
    if not (folder / "trl").is_dir():
        command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, "--no-deps"]
        subprocess.run([*command, "--target", str(folder), TRL, *_WITH_TRL], check=True)


def model_of(folder: str) -> PretrainedPolicy:
    """SmolLM2-135M-Instruct."""
    (file,) = Path(folder).glob("*.gguf")
    return PretrainedPolicy(folder, dtype="float32", gradient_checkpointing=True, gguf_file=file.name)


class Wanderer:
    """Writes replies of 24 tokens with one of the actions on offer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.filler = tokenizer.encode(" and so on" * REPLY)

    def __call__(self, request: GenerationRequest) -> list[int]:
        """The reply's tokens."""
        noise = np.random.default_rng(request.seed)
        offers = (
            self.tokenizer.decode(list(request.prompt_ids)).rpartition("available actions are:")[2].split("'")[1::2]
        )
        action = self.tokenizer.encode(f"</think><action>{noise.choice(offers)}</action>")
        thought = self.tokenizer.encode("<think>")
        room = REPLY - 1 - len(thought) - len(action)
        start = int(noise.integers(REPLY))
        return [*thought, *self.filler[start : start + max(0, room)], *action, self.tokenizer.stop_token_ids[0]][:REPLY]


def play(engine: Any, tokenizer: Any, arguments: argparse.Namespace) -> list[list[Episode]]:
    """Episodes of each task."""
    size = Scenes(train=600, valid_seen=120, valid_unseen=480, receptacles=8, objects=12, seed=0)
    tasks = AlfworldTasks(arguments.scenes, scenes=size)
    tasks.prepare()
    collector = Collector(
        engine=engine,
        pool=make_pool(AlfworldEnvironment(), arguments.tasks * arguments.episodes, 0),
        prompt=ChatPrompt(role=_ROLE),
        tokenizer=tokenizer,
        sampling=SamplingParameters(temperature=1.0, max_tokens=REPLY),
        max_steps=arguments.turns,
        seed=0,
    )
    chosen = tasks.panel("train").tasks[: arguments.tasks]
    groups, _ = collector.play(chosen, arguments.episodes, noise_key="benchmark", name="benchmark")
    return [
        [[(step.prompt_ids, step.completion_ids) for step in each.steps] for each in group.trajectories]
        for group in groups
    ]


def counts(episodes: Sequence[Sequence[Episode]], arguments: argparse.Namespace) -> dict[str, float]:
    """Tokens as rows, distinct ones, and those that the update computes."""
    pairs, tasks = flat(episodes)
    rules = model_of(arguments.model).skeleton().attention("cpu").rules
    trees = token_trees(pairs, tasks)
    rows = sum(len(prompt) + len(reply) for prompt, reply in pairs)
    distinct = sum(tree.num_tokens for tree in trees)
    computed = sum(
        make_token_batch(pairs, 0, rows).input_ids.numel()
        for rows in plan_micro_batches(trees, arguments.tokens, rules)
    )
    figures = {"steps": len(pairs), "row_tokens": rows, "distinct_tokens": distinct, "computed_tokens": computed}
    return figures | {"tokens_of_rows": computed / rows, "tokens_of_distinct": computed / distinct}


def flat(episodes: Sequence[Sequence[Episode]]) -> tuple[list[Pair], list[int]]:
    """All steps, and the number of the task of each."""
    steps = [(pair, task) for task, group in enumerate(episodes) for episode in group for pair in episode]
    return [pair for pair, _ in steps], [task for _, task in steps]


def small_config() -> LlamaConfig:
    """Of a model that costs nothing to run."""
    return LlamaConfig(
        vocab_size=49_152,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )


def cache_hits(tokenizer: Any, arguments: argparse.Namespace) -> dict[str, float]:
    """Play by vLLM itself, with weights of no size, and count what it takes from its cache.

    The share is of the tokens in whole blocks that were computed before.
    """
    engine = VLLMEngine(dtype="float32", max_model_len=8192, kv_cache_gib=1.0)
    with tempfile.TemporaryDirectory() as folder:
        small_config().save_pretrained(folder)
        engine.start(folder)
    counted = CountingEngine(engine)
    play(counted, tokenizer, arguments)
    engine.close()
    return {"cache_hits": counted.hits / counted.possible, "known_block_tokens": counted.possible}


class CountingEngine:
    """Counts the tokens that an engine takes from its cache, and those that it could take."""

    def __init__(self, inner: VLLMEngine) -> None:
        self.inner = inner
        inner_engine = inner._llm.llm_engine
        self.block = inner_engine.vllm_config.cache_config.block_size
        self.known: set[int] = set()
        self.asked: dict[str, tuple[int, ...]] = {}
        self.could: dict[str, int] = {}  # tokens that a request could take from the cache
        self.hits = self.possible = 0
        self._step, inner_engine.step = inner_engine.step, self._counted_step

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def submit(self, request: GenerationRequest) -> None:
        """Remember what could be in the cache."""
        self.asked[request.request_id] = tuple(request.prompt_ids)
        blocks = self._blocks(request.prompt_ids)
        known = next((place for place, each in enumerate(blocks) if each not in self.known), len(blocks))
        most = (len(request.prompt_ids) - 1) // self.block  # the last token is always computed
        self.could[request.request_id] = self.block * min(known, most)
        self.inner.submit(request)

    def poll(self) -> list[Any]:
        """Remember what is in the cache now."""
        return self._remember(self.inner.poll())

    def poll_unless(self, ready: Callable[[], bool]) -> list[Any]:
        """As ``poll``."""
        return self._remember(self.inner.poll_unless(ready))

    def _remember(self, done: list[Any]) -> list[Any]:
        for each in done:
            self.known.update(self._blocks((*self.asked.pop(each.request_id), *each.token_ids[:-1])))
        return done

    def _blocks(self, tokens: Sequence[int]) -> list[int]:
        """A name for each whole block and all before it."""
        names, before = [], 0
        for place in range(0, len(tokens) - self.block + 1, self.block):
            before = hash((before, tuple(tokens[place : place + self.block])))
            names.append(before)
        return names

    def _counted_step(self) -> list[Any]:
        outputs: list[Any] = self._step()
        for each in outputs:
            if each.finished:
                known = self.could[each.request_id]
                self.possible += known
                self.hits += min(known, each.num_cached_tokens or 0)
        return outputs


def times(episodes: Sequence[Sequence[Episode]], arguments: argparse.Namespace) -> dict[str, float]:
    """Processor time and memory of the update of one task's episodes against TRL's."""
    install_trl(arguments.trl)
    noise = np.random.default_rng(0)
    chosen = [
        episode[: int(noise.integers(SHORTEST, arguments.turns + 1))] for episode in episodes[0][: arguments.timed]
    ]
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "episodes"
        kept.write_bytes(pickle.dumps(chosen))
        of = {way: run(way, kept, arguments) for way in _WAYS}
        gradients = {way: torch.load(f"{kept}.{way}", weights_only=True) for way in _WAYS}
    for way, gradient in gradients.items():
        off = float((gradient - gradients["ours"]).norm() / gradients["ours"].norm())
        assert off < 1e-4, f"the gradients of {way} and ours must be equal to 1e-4, but differ by {off:.1e}"
    ours = of["ours"]
    figures = {f"{name}_of_{way}": value for way, each in of.items() for name, value in each.items()}
    return figures | {
        "time_of_trl_conversations": ours["seconds"] / of["trl_conversations"]["seconds"],
        "time_of_trl_steps": ours["seconds"] / of["trl_steps"]["seconds"],
        "memory_of_trl_steps": ours["peak_mib"] / of["trl_steps"]["peak_mib"],
    }


def run(way: str, kept: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure a way in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--kept", str(kept), "--model", arguments.model]
    command += ["--trl", str(arguments.trl), "--tokens", str(arguments.tokens)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures = dict(json.loads(done.stdout.splitlines()[-1]))
    sys.stderr.write(f"{way}: {json.dumps(figures)}\n")  # at once: the ways take an hour in all
    return figures


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Forward and backward of the kept episodes; memory is what is taken beyond the loaded model and its gradients."""
    torch.set_num_threads(1)  # more wait for each other, and that is processor time, too
    episodes: list[Episode] = pickle.loads(arguments.kept.read_bytes())
    policy = model_of(arguments.model).build().train()
    update = {"ours": ours, "trl_conversations": trl_conversations, "trl_steps": trl_steps}[arguments.way]
    if arguments.way != "ours":
        sys.path.append(str(arguments.trl))
    update(policy, [episodes[0][:1]], arguments)  # the first of everything is slow
    policy.zero_grad(set_to_none=False)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    tokens = update(policy, episodes, arguments)
    seconds = time.process_time() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) / 1024
    torch.save(torch.cat([each.grad.flatten() for each in policy.parameters()]), f"{arguments.kept}.{arguments.way}")
    return {"seconds": seconds, "peak_mib": peak, "tokens": tokens}


def advantages(episodes: Sequence[Episode]) -> list[torch.Tensor]:
    """One of each step."""
    noise = torch.Generator().manual_seed(0)
    return [torch.randn(len(episode), generator=noise) for episode in episodes]


def ours(policy: Policy, episodes: Sequence[Episode], arguments: argparse.Namespace) -> int:
    """Token trees."""
    pairs, _ = flat([episodes])
    advantage, tokens = torch.cat(advantages(episodes)), 0
    for rows in plan_micro_batches(token_trees(pairs), arguments.tokens, policy.row_rules):
        part = [index for row in rows for tree in row for index in tree.pairs]
        batch = make_token_batch(pairs, 0, rows)
        logprobs, _ = policy(batch)
        (-(logprobs * batch.action_mask).sum(1) @ advantage[part]).backward()
        tokens += batch.input_ids.numel()
    return tokens


def trl_steps(policy: Policy, episodes: Sequence[Episode], arguments: argparse.Namespace) -> int:
    """A padded row a step."""
    pairs, _ = flat([episodes])
    weights = [
        torch.full((len(reply),), float(each))
        for (_, reply), each in zip(pairs, torch.cat(advantages(episodes)), strict=True)
    ]
    return trl_update(policy, [(list(prompt), list(reply)) for prompt, reply in pairs], weights)


def trl_conversations(policy: Policy, episodes: Sequence[Episode], arguments: argparse.Namespace) -> int:
    """A padded row an episode.

    What follows the first prompt is its reply; what the world said in it counts nothing.
    """
    rows, weights = [], []
    for episode, advantage in zip(episodes, advantages(episodes), strict=True):
        first = len(episode[0][0])
        prompt, reply = episode[-1]
        row = [*prompt, *reply]
        weight = torch.zeros(len(row))
        for (before, written), each in zip(episode, advantage, strict=True):
            assert row[: len(before)] == list(before), "a conversation's prompts must begin with the ones before"
            weight[len(before) : len(before) + len(written)] = each
        rows.append((row[:first], row[first:]))
        weights.append(weight[first:])
    return trl_update(policy, rows, weights)


def trl_update(policy: Policy, rows: Sequence[tuple[list[int], list[int]]], weights: Sequence[torch.Tensor]) -> int:
    """Batches of 8 through TRL's own forward, each padded as its trainer pads: prompts left, replies right."""
    from trl import GRPOTrainer
    from trl.trainer.utils import add_fused_lm_head

    if not hasattr(policy, "fused"):
        add_fused_lm_head(policy.model, temperature=1.0, outputs=("log_probs", "entropy"))
        policy.fused = True  # type: ignore[assignment]
    forward = inspect.unwrap(GRPOTrainer._get_per_token_logps_and_entropies)  # without its own stopwatch
    trainer = SimpleNamespace(accelerator=SimpleNamespace(autocast=contextlib.nullcontext))
    tokens = 0
    for begin in range(0, len(rows), BATCH):
        part = rows[begin : begin + BATCH]
        left, right = (max(len(row[side]) for row in part) for side in (0, 1))
        ids = torch.zeros(len(part), left + right, dtype=torch.long)
        there, weight = torch.zeros_like(ids), torch.zeros(len(part), right)
        for place, (prompt, reply) in enumerate(part):
            ids[place, left - len(prompt) : left + len(reply)] = torch.tensor([*prompt, *reply])
            there[place, left - len(prompt) : left + len(reply)] = 1
            weight[place, : len(reply)] = weights[begin + place]
        logprobs, *_ = forward(trainer, policy.model, ids, there, right)
        (-(logprobs * weight).sum()).backward()
        tokens += ids.numel()
    return tokens


if __name__ == "__main__":
    main()
