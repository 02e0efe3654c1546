"""vLLM beside the trainer: its start, the way of the weights, its sleep, its speed, and how far both are apart."""

import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.rollout import GenerationRequest, SamplingParameters, VLLMEngine
from gigpo_lightning.token_batch import make_token_batch
from gpu_stages.lines import Recorder, installed
from gpu_stages.made_up import DEVICE, RandomPolicy, now, peak_gib
from gpu_stages.shapes import SHAPES, WORK
from gpu_stages.syncing import sync
from modules import GiGPOModule

_CLIPPED = 0.18  # nats: a ratio beyond exp(±.18) is clipped where clip_low and clip_high are .2 and .2
_PROBE_TOKENS = 24
_RATE = 1e-6


def engine(part: str, shape: str, recorder: Recorder) -> None:
    """Start an engine beside the trainer, give it weights, let it sleep, and compare what both say of probes."""
    if not installed("vllm"):
        recorder.skip("no vLLM")
        return
    module, ours = _module(shape), VLLMEngine(**_options(shape), allow_sleep=DEVICE == "cuda")
    started = now()
    with tempfile.TemporaryDirectory() as folder:
        module.policy.model.config.save_pretrained(folder)
        ours.start(folder)
    recorder.line(what="start", start_seconds=now() - started, **ours.details(), **_cache(ours), **_free())
    for number in ("first", "second"):
        started = now()
        metrics = sync(module, ours)
        proved = now()
        ours.load_weights(module.named_weights(), module.policy_version)  # the same again, without a proof
        alone = now() - proved
        recorder.line(what="sync", number=number, sync_seconds=proved - started, load_seconds=alone, **metrics)
        module.policy_version += 1
    probes = _probes(shape)
    recorder.line(what="tails", weights="the same", **_tails(_probe_errors(module, ours, probes)))
    _step(module)
    recorder.line(what="tails", weights="one update old", **_tails(_probe_errors(module, ours, probes)))
    for number in range(WORK[shape].naps):
        before, started = _free(), now()
        ours.sleep()
        asleep, slept = _free(), now()
        ours.wake()
        woken, awake = now(), _free()
        sync(module, ours)
        recorder.line(
            what="sleep",
            number=number,
            sleep_seconds=slept - started,
            wake_seconds=woken - slept,
            sync_seconds=now() - woken,
            free_before=before.get("free_gib"),
            free_asleep=asleep.get("free_gib"),
            free_awake=awake.get("free_gib"),
        )
    recorder.line(what="tails", weights="after sleep", **_tails(_probe_errors(module, ours, probes)))
    ours.close()


def decode(part: str, shape: str, recorder: Recorder) -> None:
    """Tokens a second of many replies at a time, and their log-probabilities against the trainer's.

    Each measurement is a second one of the same prompts: they lie in the prefix cache, and replies alone take time.

    Args:
        part: The runner and whether it has CUDA graphs, as ``"v2_graphs"``.
        shape: Of the model.
        recorder: Gets the lines.
    """
    if not installed("vllm"):
        recorder.skip("no vLLM")
        return
    runner, graphs = part.split("_")
    if runner == "v2" and DEVICE == "cpu":
        recorder.skip("vLLM's runner V2 needs a GPU")
        return
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = str(int(runner == "v2"))
    module, ours = _module(shape), Unseeded(**_options(shape), enforce_eager=graphs == "eager")
    started = now()
    sync(module, ours)
    recorder.line(what="start", start_seconds=now() - started, **ours.details(), **_cache(ours))
    work = WORK[shape]
    noise = np.random.default_rng(0)
    prompts = [
        tuple(noise.integers(3, SHAPES[shape]["vocab_size"], work.prompt).tolist()) for _ in range(work.sequences)
    ]
    for seeded in (True, False):
        ours.seeded = seeded
        _write(ours, prompts, work.written)  # the first of everything is slow
        started = now()
        replies = _write(ours, prompts, work.written)
        seconds = now() - started
        written = sum(len(reply.token_ids) for reply in replies)
        figures = {"tokens_per_second": written / seconds, "decode_seconds": seconds, "written": written}
        pairs = [(prompts[int(reply.request_id)], reply.token_ids) for reply in replies]
        errors = _errors(module, pairs, [reply.logprobs for reply in replies])
        recorder.line(what="decode", runner=runner, graphs=graphs, seeded=seeded, **figures, **_tails(errors))
    ours.close()


class Unseeded(VLLMEngine):
    """An engine that can leave out the seeds of its requests."""

    seeded = True

    def _add(self, request_id: str, prompt_ids: Sequence[int], sampling: Any) -> None:
        if not self.seeded:
            sampling = sampling | {"seed": None}
        super()._add(request_id, prompt_ids, sampling)


def _options(shape: str) -> dict[str, Any]:
    work = WORK[shape]
    kind = "bfloat16"
    return {
        "dtype": kind,
        "max_model_len": work.max_model_len,
        "gpu_memory_utilization": work.share,
        "kv_cache_gib": 0.1,
    }


def _module(shape: str) -> GiGPOModule:
    module = GiGPOModule(RandomPolicy(shape, checkpointing=False), GiGPO())
    module.configure_model()
    return module.to(DEVICE)


def _step(module: GiGPOModule) -> None:
    """Move every weight by the learning rate, up or down, as AdamW's first step does; without its memory."""
    with torch.no_grad():
        for weight in module.policy.parameters():
            weight.add_(torch.randn_like(weight).sign_(), alpha=_RATE)
    module.policy_version += 1


def _write(engine: VLLMEngine, prompts: Sequence[tuple[int, ...]], tokens: int) -> list[Any]:
    for number, prompt in enumerate(prompts):
        sampling = SamplingParameters(temperature=1.0, max_tokens=tokens)
        engine.submit(
            GenerationRequest(
                request_id=str(number), prompt_ids=prompt, sampling=sampling, stop_token_ids=(), seed=number
            )
        )
    replies: list[Any] = []
    while len(replies) < len(prompts):
        replies += engine.poll()
    return replies


def _probes(shape: str) -> list[list[int]]:
    noise = torch.Generator().manual_seed(1)
    return torch.randint(SHAPES[shape]["vocab_size"], (WORK[shape].probes, _PROBE_TOKENS), generator=noise).tolist()


def _probe_errors(module: GiGPOModule, engine: VLLMEngine, probes: list[list[int]]) -> torch.Tensor:
    pairs = [(tuple(probe[:1]), tuple(probe[1:])) for probe in probes]
    return _errors(module, pairs, engine.score(pairs))


@torch.no_grad()
def _errors(
    module: GiGPOModule, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], theirs: Sequence[Sequence[float]]
) -> torch.Tensor:
    """Absolute differences of the tokens' log-probabilities, in nats, with the trainer computing as it trains."""
    module.policy.eval()
    found = []
    for pair, expected in zip(pairs, theirs, strict=True):
        tokens = make_token_batch([pair], 0).to(torch.device(DEVICE))
        with torch.autocast(DEVICE, torch.bfloat16):
            ours = module.policy(tokens)[0][0].cpu()
        found.append((ours - torch.tensor(expected)).abs())
    return torch.cat(found)


def _tails(errors: torch.Tensor) -> dict[str, float]:
    return {
        "tokens_compared": len(errors),
        "mean": float(errors.mean()),
        "p99": float(errors.quantile(0.99)),
        "max": float(errors.max()),
        "share_beyond_clip": float((errors > _CLIPPED).float().mean()),
    }


def _cache(engine: VLLMEngine) -> dict[str, Any]:
    """Tokens that the engine's key-value cache holds."""
    config = engine._llm.llm_engine.vllm_config.cache_config
    blocks, size = getattr(config, "num_gpu_blocks", None), getattr(config, "block_size", None)
    return {"cache_tokens": blocks * size if blocks and size else None, "trainer_peak_gib": peak_gib()}


def _free() -> dict[str, float]:
    """Memory of the device that nobody has, in GiB."""
    if DEVICE == "cpu":
        return {}
    torch.cuda.synchronize()
    time.sleep(0.1)
    return {"free_gib": torch.cuda.mem_get_info()[0] / (1 << 30)}
