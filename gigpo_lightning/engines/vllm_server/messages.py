"""What vLLM is asked for replies and scores, and how the answers of a server's token-in, token-out route are read."""

import math
from collections.abc import Sequence
from typing import Any

from gigpo_lightning.engines.base import Completion, GenerationRequest

GENERATE = "/inference/v1/generate"
SCORING = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}
"""How a sequence is scored, by the names of vLLM's ``SamplingParams``."""


def reply_sampling(request: GenerationRequest) -> dict[str, Any]:
    """How a reply is drawn, by the names of vLLM's ``SamplingParams``.

    The request's own stop tokens alone end it: a server would also end it at those of its folder's generation config.
    """
    return {
        "temperature": request.sampling.temperature,
        "max_tokens": request.sampling.max_tokens,
        "seed": request.seed if request.sampling.temperature > 0 else None,
        "stop_token_ids": list(request.stop_token_ids),
        "ignore_eos": True,
        "logprobs": 0,  # of the sampled token alone
        "detokenize": False,
    }


def generation(request: GenerationRequest, name: str, adapter: str) -> dict[str, Any]:
    """The question for a reply; ``name`` is unique on the server, and an empty ``adapter`` is none."""
    return {
        "request_id": name,
        "model": adapter or None,
        "token_ids": list(request.prompt_ids),
        "sampling_params": reply_sampling(request),
    }


def completion(answer: dict[str, Any], request: GenerationRequest, policy_version: int) -> Completion:
    """The reply in an answer."""
    choice = answer["choices"][0]
    return Completion(
        request_id=request.request_id,
        token_ids=tuple(choice["token_ids"]),
        logprobs=tuple(token["logprob"] for token in choice["logprobs"]["content"]),
        finish_reason=choice["finish_reason"],
        policy_version=policy_version,
    )


def reason_to_refuse(answer: dict[str, Any], url: str, label: str) -> str:
    """Why a server's reply cannot be used; empty if it can."""
    choice = answer["choices"][0]
    if choice["finish_reason"] not in ("stop", "length"):
        return f"the vLLM server {url} ended a reply with {choice['finish_reason']!r}"
    versions = sorted({span["version"] for span in choice["weight_versions"] or ()})
    if versions != [label]:
        return (
            f"the vLLM server {url} must answer with the weights {label!r} that it was sent, got {versions}: it was "
            "started anew, or something else trains with it"
        )
    return ""


def scoring(ids: Sequence[int], adapter: str) -> dict[str, Any]:
    """The question for the log-probabilities of a sequence."""
    return {"model": adapter or None, "token_ids": list(ids), "sampling_params": SCORING}


def scores(answer: dict[str, Any], ids: Sequence[int]) -> list[float]:
    """Log-probability of each token of a sequence; the first has none, which is not a number."""
    rows = answer["prompt_logprobs"]
    return [math.nan if row is None else row[str(token)]["logprob"] for token, row in zip(ids, rows, strict=True)]
