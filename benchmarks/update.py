"""What the update costs: padded rows with all their logits, against token trees with logits of replies in chunks.

    python benchmarks/update.py runs/alfworld_tiny/lightning_logs/version_0/trajectories/epoch_0.parquet

The same steps, lengths and shared prompts as in a rollout on ALFWorld that ``Transcripts`` has kept, at the vocabulary
of Qwen2.5 and a small width, each way in a process of its own; the gradients are compared. A second table has the time
of the whole update for a quarter, a half and all of the steps.

    python benchmarks/update.py --json

Without a file it measures conversations, also against TRL: ``benchmarks/conversations.py`` has the options.
"""

import argparse
import resource
import runpy
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from gigpo_lightning.algorithm.losses import BatchCounts, LossSettings, policy_loss
from gigpo_lightning.rollout.store import read_trajectories
from gigpo_lightning.token_batch import make_token_batch
from gigpo_lightning.token_trees import Pair, RowRules, plan_micro_batches, token_trees
from modules import Policy

PAD = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("episodes", type=Path, nargs="?", help="an epoch's file of a run's trajectories/")
    parser.add_argument("--rows", type=int, default=96, help="steps of the minibatch")
    parser.add_argument("--tokens", type=int, default=2048, help="rows times longest row of a micro-batch")
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--once", action="store_true", help="leave out the times for more steps")
    arguments, others = parser.parse_known_args()
    if arguments.episodes is None:
        runpy.run_path(str(Path(__file__).with_name("conversations.py")), run_name="__main__")
        return
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    with tempfile.TemporaryDirectory() as folder:
        report(arguments, Path(folder))


def report(arguments: argparse.Namespace, folder: Path) -> None:
    def run(way: str, rows: int) -> dict[str, float]:
        # A fork has the imports already; the memory that it takes is its own.
        with get_context("fork").Pool(1) as pool:
            measured = argparse.Namespace(**vars(arguments) | {"way": way, "rows": rows})
            return pool.apply(measure, (measured, folder / way))

    lines = [f"{arguments.rows} steps, vocabulary {arguments.vocabulary}, width {arguments.hidden}"]
    lines.append(f"{'':8}{'tokens':>9}{'seconds':>9}{'peak MiB':>10}{'time':>7}{'memory':>8}{'gradient off by':>17}")
    base = run("padded", arguments.rows)
    expected = torch.load(folder / "padded", weights_only=True)
    for way in ("padded", "rows", "trees"):
        one = base if way == "padded" else run(way, arguments.rows)
        off = float((torch.load(folder / way, weights_only=True) - expected).norm() / expected.norm())
        assert off < 1e-5, f"the gradients of {way} and padded must be equal to 1e-5, but differ by {off:.1e}"
        ratios = f"{one['seconds'] / base['seconds']:7.2f}{one['peak_mib'] / base['peak_mib']:8.2f}"
        lines.append(f"{way:8}{one['tokens']:9.0f}{one['seconds']:9.2f}{one['peak_mib']:10.0f}{ratios}{off:17.1e}")
    lines += [] if arguments.once else ["trees, more steps:"]
    for share in () if arguments.once else (4, 2, 1):
        one = run("trees", 8 * arguments.rows // share)
        per_token = 1e6 * one["seconds"] / one["tokens"]
        lines.append(
            f"{8 * arguments.rows // share:8}{one['tokens']:9.0f}{one['seconds']:9.2f}{per_token:9.1f} µs a token"
        )
    sys.stdout.write("\n".join(lines) + "\n")


def measure(arguments: argparse.Namespace, kept: Path) -> dict[str, float]:
    """The update in one way; its gradient goes into a file."""
    pairs = steps(arguments)
    config = Qwen2Config(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden,
        intermediate_size=2 * arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden // 32,
        num_key_value_heads=arguments.hidden // 32,
        tie_word_embeddings=True,
    )
    torch.manual_seed(arguments.seed)
    policy = Policy(Qwen2ForCausalLM(config), None)  # type: ignore[arg-type]
    advantage = torch.randn(len(pairs))
    update = padded_update if arguments.way == "padded" else our_update
    update(policy, pairs[:2], advantage[:2], arguments)  # the first of everything is slow
    policy.zero_grad()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    tokens = update(policy, pairs, advantage, arguments)
    seconds = time.perf_counter() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) / 1024
    torch.save(torch.cat([each.grad.flatten() for each in policy.parameters()]), kept)
    return {"seconds": seconds, "peak_mib": peak, "tokens": tokens}


def steps(arguments: argparse.Namespace) -> list[Pair]:
    """So many steps of the rollout, over and over if it has fewer, the same tokens where it has the same tokens."""
    groups, _ = read_trajectories(arguments.episodes)
    found = [step for group in groups for trajectory in group.trajectories for step in trajectory.steps]
    order = np.random.default_rng(arguments.seed).permutation(len(found))
    noise = np.random.default_rng(arguments.seed).permutation(arguments.vocabulary)
    chosen = [found[order[index % len(found)]] for index in range(arguments.rows)]
    # Another pass's prompts are other ones.
    moved = [37 * (index // len(found)) for index in range(arguments.rows)]

    def renamed(tokens: Sequence[int], by: int) -> list[int]:
        return [int(noise[(token + by) % arguments.vocabulary]) for token in tokens]

    return [
        (renamed(step.prompt_ids, by), renamed(step.completion_ids, by)) for step, by in zip(chosen, moved, strict=True)
    ]


def loss_of(
    logprobs: torch.Tensor, entropy: torch.Tensor, mask: torch.Tensor, advantage: torch.Tensor, counts: BatchCounts
):
    settings = LossSettings(entropy_coefficient=0.001)
    return policy_loss(
        settings,
        logprobs=logprobs,
        old_logprobs=logprobs.detach(),
        entropy=entropy,
        ref_logprobs=None,
        advantage=advantage,
        action_mask=mask,
        row_weight=torch.ones(len(advantage)),
        counts=counts,
    ).loss


def count(pairs: list[Pair]) -> BatchCounts:
    return BatchCounts(num_tokens=sum(len(reply) for _, reply in pairs), num_rows=len(pairs))


def our_update(policy: Policy, pairs: list[Pair], advantage: torch.Tensor, arguments: argparse.Namespace) -> int:
    rules = policy.row_rules if arguments.way == "trees" else RowRules(shared=False)
    tokens = 0
    for rows in plan_micro_batches(token_trees(pairs), arguments.tokens, rules):
        part = [index for row in rows for tree in row for index in tree.pairs]
        batch = make_token_batch(pairs, PAD, rows)
        logprobs, entropy = policy(batch)
        loss_of(logprobs, entropy, batch.action_mask, advantage[part], count(pairs)).backward()
        tokens += batch.input_ids.numel()
    return tokens


def padded_update(policy: Policy, pairs: list[Pair], advantage: torch.Tensor, arguments: argparse.Namespace) -> int:
    """As it is often done: every row as long as the longest of all, every logit of it, softmax and entropy of each."""
    longest = max(len(prompt) + len(reply) for prompt, reply in pairs)
    size = max(1, arguments.tokens // longest)
    for begin in range(0, len(pairs), size):
        part = pairs[begin : begin + size]
        ids = torch.full((len(part), longest), PAD)
        mask, written = torch.zeros_like(ids), torch.zeros(ids.shape, dtype=torch.bool)
        for row, (prompt, reply) in enumerate(part):
            both = torch.tensor([*prompt, *reply])
            ids[row, : len(both)], mask[row, : len(both)] = both, 1
            written[row, len(prompt) : len(both)] = True
        logits = policy.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        log_softmax = torch.log_softmax(logits.float(), dim=-1)
        logprobs = log_softmax.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
        entropy = -(log_softmax.exp() * log_softmax).sum(-1)
        loss_of(logprobs, entropy, written[:, 1:], advantage[begin : begin + size], count(pairs)).backward()
    return len(pairs) * longest


if __name__ == "__main__":
    main()
