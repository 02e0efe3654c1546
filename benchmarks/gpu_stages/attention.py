"""Forward and backward of a policy by length and by the attention over token trees, each against plain rows."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import AttentionInterface

from gigpo_lightning.token_batch import make_token_batch
from gigpo_lightning.token_trees import Pair, RowRules, in_rows, token_trees
from gpu_stages.lines import Recorder, installed, machine
from gpu_stages.made_up import DEVICE, RandomPolicy, forget_peak, made_up_group, now, peak_gib
from gpu_stages.shapes import WORK, forward_operations, share_of_peak
from gpu_stages.updates import longest
from modules import Policy
from modules.attention import Attention

_KERNELS = ("attention", "flash", "fmha", "flex", "cutlass", "softmax", "mha")
PLAIN, SIDE = RowRules(shared=False), RowRules(shared=False, one_row=True)
WAYS: dict[str, tuple[str, RowRules]] = {
    "rows": ("sdpa", PLAIN),
    "dense": ("sdpa", RowRules()),
    "flex": ("flex_attention", RowRules(one_row=True)),
    "blocks": ("token_trees", RowRules(one_row=True)),
    "packed_flash": ("flash_attention_2", SIDE),
    "packed_varlen": ("varlen", SIDE),
}
"""Attention implementation of each way, and how sequences lie in rows."""


def attention(part: str, shape: str, recorder: Recorder) -> None:
    """Tokens a second, memory and kernels of each way at each length; what fails is said, and the rest goes on.

    Tokens are those of the plain rows in every way, so that the rates compare: a prompt with two replies counts twice.
    """
    register_varlen()
    for length in WORK[shape].lengths:
        pairs = pairs_of(shape, length)
        expected: Tensor | None = None
        for way in WAYS:
            reason = _unavailable(way)
            if reason:
                recorder.skip(reason, way=way, length=length)
                continue
            try:
                figures, logprobs = measure(way, shape, pairs)
            except Exception as error:  # a kernel that is not there is a finding; the other ways are measured
                recorder.line(way=way, length=length, failed=f"{type(error).__name__}: {str(error)[:500]}")
                forget_peak()
                continue
            expected = logprobs if expected is None else expected
            off = float((logprobs - expected).abs().max())
            recorder.line(way=way, length=length, off_from_rows=off, **figures)


def register_varlen() -> None:
    """Have Transformers know torch's own attention of sequences side by side by a name."""
    AttentionInterface.register("varlen", _varlen)


class VarlenPolicy(Policy):
    """A policy that computes attention of sequences side by side by torch's own kernel."""

    def attention(self, device: str | None = None) -> Attention:
        """Without a mask: positions say where a sequence begins."""
        return Attention(name="varlen", rules=SIDE, mask=lambda tokens: None, causal=False)


def _varlen(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention of sequences side by side by torch's own kernel, as Transformers calls it: ``(1, heads, T, width)``."""
    function = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    known = inspect.signature(function).parameters
    options: dict[str, Any] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            key, value = (each.repeat_interleave(query.shape[1] // key.shape[1], 1) for each in (key, value))
    starts = (more["position_ids"].flatten() == 0).nonzero().flatten().to(torch.int32)
    ends = torch.cat([starts, torch.tensor([query.shape[2]], dtype=torch.int32, device=query.device)])
    most = int(ends.diff().max())
    states = [each[0].transpose(0, 1).contiguous() for each in (query, key, value)]
    return function(*states, ends, ends, most, most, **options).unsqueeze(0), None


def _unavailable(way: str) -> str:
    """Why a way cannot be tried here; empty if it can."""
    if way == "packed_flash" and not installed("flash_attn"):
        return "no flash-attn"
    if way.startswith("packed") and DEVICE == "cpu":
        return "needs a GPU"
    if way == "blocks" and DEVICE != "cpu":
        return "is made for CPUs"
    if way == "packed_varlen" and not installed("torch.nn.attention.varlen"):
        return "no varlen_attn in this torch"
    return ""


def pairs_of(shape: str, length: int) -> list[Pair]:
    """Sequences of about one length, four fifths of it prompt, two for each prompt."""
    prompt = 4 * length // 5
    steps = max(2, WORK[shape].attention_tokens // length)
    group = made_up_group(shape, steps, prompt, length - prompt)
    steps_made = [step for trajectory in group.trajectories for step in trajectory.steps]
    return [(step.prompt_ids, step.completion_ids) for step in steps_made]


def measure(way: str, shape: str, pairs: list[Pair]) -> tuple[dict[str, Any], Tensor]:
    """Time forward and backward passes over all pairs at once.

    Returns:
        Figures, and the log-probabilities of the replies' tokens.
    """
    name, rules = WAYS[way]
    policy = RandomPolicy(shape, name).build()
    if way == "packed_varlen":
        policy = VarlenPolicy(policy.model, policy.tokenizer)
    if way == "flex" and DEVICE == "cpu":
        torch.compiler.set_stance("force_eager")  # not for speed: to see that the mask is right
    policy.train()
    trees = in_rows(token_trees(pairs), rules)
    tokens = make_token_batch(pairs, 0, trees).to(torch.device(DEVICE))
    order = [index for row in trees for tree in row for index in tree.pairs]

    forward_only = way == "flex" and DEVICE == "cpu"  # which has no backward pass of it

    def once() -> Tensor:
        policy.zero_grad()
        with torch.autocast(DEVICE, torch.bfloat16), torch.set_grad_enabled(not forward_only):
            logprobs: Tensor = policy(tokens)[0]
        if not forward_only:
            logprobs.sum().backward()
        return logprobs.detach().cpu()[torch.tensor(order).argsort()]

    try:
        logprobs = once()
        forget_peak()
        repeats, started = WORK[shape].repeats, now()
        for _ in range(repeats):
            once()
        seconds = (now() - started) / repeats
        kernels = _kernels(once)
    finally:
        torch.compiler.set_stance("default")
    plain = sum(len(prompt) + len(reply) for prompt, reply in pairs)
    squares = float(sum((len(prompt) + len(reply)) ** 2 for prompt, reply in pairs))
    replies = sum(len(reply) for _, reply in pairs)
    useful = 3 * forward_operations(shape, plain, replies, squares)
    figures = {
        "tokens": plain,
        "computed_tokens": tokens.input_ids.numel(),
        "pass_seconds": seconds,
        "tokens_per_second": plain / seconds,
        "mfu_of_rows": share_of_peak(useful / seconds, str(machine()["device"])),
        "peak_gib": peak_gib(),
        "forward_only": forward_only,
        "kernels": kernels,
    }
    return figures, logprobs


def _kernels(once: Callable[[], Tensor]) -> list[dict[str, Any]]:
    """Which kernels computed attention, by their names."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if DEVICE == "cuda" else [])]
    with profile(activities=activities) as found:
        once()
    named = [event for event in longest(found, 200) if any(word in event["name"].lower() for word in _KERNELS)]
    return named[:4]
