"""Policies with random weights, and steps with lengths as on ALFWorld: what counts here is their shape."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers

from gigpo_lightning.trajectory import Step, StopReason, Trajectory, TrajectoryGroup
from gpu_stages.shapes import SHAPES
from modules import Policy
from modules.tiny_policy import word_tokenizer
from modules.tokenizer import TransformersTokenizer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_SHARPNESS = 4.0  # of the last norm: logits then spread as those of a trained model, by three nats and not by one


class RandomPolicy:
    """A policy of a shape, with random weights, made where it computes.

    Args:
        shape: One of ``SHAPES``.
        attention: Attention implementation, as Transformers names it; default: what suits the model and the device.
        words: What its tokenizer knows.
        checkpointing: Recompute activations in the backward pass.
    """

    def __init__(
        self,
        shape: str,
        attention: str | None = None,
        words: Sequence[Callable[[], Sequence[str]]] = (),
        checkpointing: bool = True,
    ) -> None:
        self.shape = shape
        self.attention = attention
        self.words = words
        self.checkpointing = checkpointing

    def config(self) -> Any:
        """Transformers' config of the shape."""
        arguments = {name: value for name, value in SHAPES[self.shape].items() if name != "kind"}
        made = getattr(transformers, f"{SHAPES[self.shape]['kind']}Config")(
            **arguments, max_position_embeddings=32_768, bos_token_id=None, eos_token_id=2, pad_token_id=0
        )
        made._attn_implementation = self.attention or "sdpa"
        return made

    def build(self) -> Policy:
        """Make it."""
        torch.manual_seed(0)
        with torch.device(DEVICE):
            model = getattr(transformers, f"{SHAPES[self.shape]['kind']}ForCausalLM")(self.config())
        with torch.no_grad():
            model.base_model.norm.weight.fill_(_SHARPNESS)
        if self.checkpointing:
            model.gradient_checkpointing_enable()
        words = [word for list_words in self.words for word in list_words()] or ["word"]
        tokenizer = TransformersTokenizer(word_tokenizer(list(dict.fromkeys(words))))
        return Policy(model, tokenizer, self.attention)


def made_up_group(shape: str, steps: int, prompt: int, reply: int, replies_of_a_prompt: int = 2) -> TrajectoryGroup:
    """A group of two episodes with so many steps in all, in which prompts repeat.

    Args:
        shape: Whose vocabulary.
        steps: At least two.
        prompt: Mean tokens of a prompt.
        reply: Mean tokens of a reply.
        replies_of_a_prompt: So often does each prompt come.
    """
    noise = np.random.default_rng(0)
    vocabulary = SHAPES[shape]["vocab_size"]

    def tokens(mean: int) -> tuple[int, ...]:
        return tuple(noise.integers(3, vocabulary, max(1, int(noise.uniform(0.6, 1.4) * mean))).tolist())

    prompts = [tokens(prompt) for _ in range(-(-steps // replies_of_a_prompt))]

    def step(place: int) -> Step:
        written = tokens(reply)
        return Step(
            observation=str(place),
            anchor_key=place,
            prompt_ids=prompts[place],
            completion_ids=written,
            logprobs=(-1.0,) * len(written),
            response="",
            action="",
            valid_action=True,
            reward=float(noise.random()),
            policy_version=0,
            prompt_truncated=False,
        )

    places = [place % len(prompts) for place in range(steps)]
    trajectories = tuple(
        Trajectory(
            task_id="0",
            kind="",
            episode_index=index,
            steps=tuple(step(place) for place in half),
            success=False,
            stop_reason=StopReason.TRUNCATED,
            final_observation="",
        )
        for index, half in enumerate((places[::2], places[1::2]))
    )
    return TrajectoryGroup(task_id="0", trajectories=trajectories)


def now() -> float:
    """Seconds, once the device has done all that it was asked to."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_gib() -> float | None:
    """Most memory that was allocated since ``forget_peak``, in GiB; None without a GPU."""
    return torch.cuda.max_memory_allocated() / (1 << 30) if DEVICE == "cuda" else None


def forget_peak() -> None:
    """Give cached memory back, and count the peak anew."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
