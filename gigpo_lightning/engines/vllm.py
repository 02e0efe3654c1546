"""vLLM in the trainer's own process: with ``vllm_plugin``, the one file that knows vLLM's insides."""

import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from gigpo_lightning.engines.adapter import Adapter
from gigpo_lightning.engines.base import Completion, EngineBase, GenerationRequest
from gigpo_lightning.engines.vllm_adapters import leave_head_alone
from gigpo_lightning.engines.vllm_device import binding_memory_quietly, check_one_device, on_this_device
from gigpo_lightning.engines.vllm_server.messages import SCORING, reply_sampling
from gigpo_lightning.engines.vllm_weights import show_weights
from gigpo_lightning.engines.weight_proof import Checksums, Shapes
from gigpo_lightning.errors import RunError, check_count, check_range
from gigpo_lightning.memory.engine import EngineSettings
from gigpo_lightning.memory.update import GIB
from gigpo_lightning.ranks import place

_ENVIRONMENT = {
    # The engine shares this process, so that weights are handed over and not copied through a pipe.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Binding threads to cores would pin the trainer's too, and fights with a second run on the same machine.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


class VLLMEngine(EngineBase):
    """vLLM in process, token ids in and out, on a CPU or a GPU.

    Chunked prefill is off on CPUs: vLLM rewinds the random state of a request whose prefill was cut, which a CPU
    generator cannot do, and a seeded request would end the run (tried, 0.32).

    Args:
        model: Folder or hub name to start on; without it, the run's own policy says.
        dtype: Type of the engine's weights.
        max_model_len: Longest prompt plus reply, in tokens; default: what the model allows.
        max_num_seqs: Requests that run at the same time.
        max_num_batched_tokens: Tokens of one forward pass; at least ``max_model_len``.
        gpu_memory_utilization: Share of the device's visible memory that vLLM may plan with.
        kv_cache_gib: Size of the key-value cache on a CPU, in GiB.
        tensor_parallel_size: Must be 1: weights are handed over within this process. ``gigpo-server`` takes more.
        enforce_eager: Leave out compilation and CUDA graphs: a quicker start, slower tokens on a GPU.
        trust_remote_code: Run code that the checkpoint brings along. Never unless you ask for it.
        allow_sleep: Let ``sleep`` free a GPU's memory; vLLM must know from the start.
        max_lora_rank: Largest rank of a LoRA adapter; 0 takes none. On CPUs adapters leave the output layer alone.
        options: More arguments of ``vllm.LLM``, by their names there.
    """

    def __init__(
        self,
        model: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 16384,
        gpu_memory_utilization: float = 0.5,
        kv_cache_gib: float = 0.5,
        tensor_parallel_size: int = 1,
        enforce_eager: bool = False,
        trust_remote_code: bool = False,
        allow_sleep: bool = False,
        max_lora_rank: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        for name, count in {
            "max_model_len": 1 if max_model_len is None else max_model_len,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens,
            "tensor_parallel_size": tensor_parallel_size,
        }.items():
            check_count(name, count)
        check_one_device({"tensor_parallel_size": tensor_parallel_size} | (options or {}))
        check_count("max_lora_rank", max_lora_rank, 0)
        check_range("gpu_memory_utilization", gpu_memory_utilization, 1e-6, 1.0)
        check_range("kv_cache_gib", kv_cache_gib, 1e-6, 1 << 20)
        self._model = model
        self._options: dict[str, Any] = {
            "dtype": dtype,
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens,
            "gpu_memory_utilization": gpu_memory_utilization,
            "tensor_parallel_size": tensor_parallel_size,
            "enforce_eager": enforce_eager,
            "trust_remote_code": trust_remote_code,
            **({"enable_lora": True, "max_lora_rank": max_lora_rank, "max_loras": 1} if max_lora_rank else {}),
            **(options or {}),
        }
        self._kv_cache_bytes = int(kv_cache_gib * GIB)
        self._allow_sleep = allow_sleep
        self._asleep = False
        self._llm: Any = None
        self._vllm: Any = None
        self._under_way: set[str] = set()
        self._adapters = 0
        self._adapter: Any = None  # vLLM's request for it, which every request of ours then names
        self._adapter_folder: tempfile.TemporaryDirectory[str] | None = None
        self._closed = False

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus reply, in tokens; 0 before the start."""
        return 0 if self._llm is None else int(self._llm.llm_engine.model_config.max_model_len)

    def memory_settings(self, on_gpu: bool) -> EngineSettings:
        """What decides how much it takes: of a GPU its share, of a CPU's memory a cache of a fixed size."""
        options = self._options
        return EngineSettings(
            kind="share" if on_gpu else "fixed",
            weight_type=options["dtype"],
            max_model_len=options["max_model_len"],
            max_num_seqs=options["max_num_seqs"],
            max_num_batched_tokens=options["max_num_batched_tokens"],
            share=options["gpu_memory_utilization"],
            cache_gib=self._kv_cache_bytes / GIB,
            graphs=on_gpu and not options["enforce_eager"],
            allow_sleep=self._allow_sleep,
            max_lora_rank=options.get("max_lora_rank", 0),
        )

    def start(self, model_folder: str) -> None:
        """Start on the architecture that a folder's ``config.json`` describes; a second call does nothing.

        The weights are made up until ``load_weights`` brings the trainer's: a checkpoint is read from disk once a
        run, not twice.

        Raises:
            ImportError: If vLLM is not installed.
            RuntimeError: If the engine was closed, or the only process of a job computes on another GPU than the first.
        """
        if self._closed:
            raise RuntimeError("this VLLMEngine was closed; make a new one")
        if self._llm is not None:
            return
        self._vllm = _import_vllm()
        device_options: dict[str, Any] = {"enable_sleep_mode": True} if self._allow_sleep else {}
        if self._on_cpu():
            self._vllm.platforms.current_platform.import_kernels()  # one of them is made quiet below
            device_options = {
                "kv_cache_memory_bytes": self._kv_cache_bytes,
                "enable_chunked_prefill": False,
                "async_scheduling": False,
                "enforce_eager": True,
            }
        with on_this_device(), binding_memory_quietly(), self._uncompiled():
            self._llm = self._vllm.LLM(
                self._model or model_folder,
                **{
                    "skip_tokenizer_init": True,
                    "load_format": "dummy",
                    "logprobs_mode": "processed_logprobs",
                    "generation_config": "vllm",
                    "disable_log_stats": True,
                    "enable_prefix_caching": True,
                    **_among_ranks(),
                    **self._options,
                    **device_options,
                },
            )
        if self._options.get("enable_lora") and self._on_cpu():
            self._llm.collective_rpc(leave_head_alone)

    def details(self) -> dict[str, str]:
        """Which of vLLM's model runners computes, ``"V1"`` or ``"V2"``, and its class; empty before the start.

        On GPUs and on CPUs vLLM samples, loads and sleeps by other code.
        """
        if self._llm is None:
            return {}
        (runner,) = self._llm.collective_rpc(lambda worker: type(worker.model_runner))
        # vllm.v1.worker.gpu_model_runner and vllm.v1.worker.gpu.model_runner, and the same for CPUs
        version = "V2" if runner.__module__.endswith(".model_runner") else "V1"
        return {"model_runner": version, "model_runner_class": f"{runner.__module__}.{runner.__name__}"}

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; returns at once.

        Raises:
            ValueError: If prompt and reply together are longer than the model's context.
        """
        self._started()
        self._check_length(request, self.max_model_len)
        self._add(request.request_id, request.prompt_ids, reply_sampling(request))

    def cancel(self) -> None:
        """Drop every request that is under way."""
        if self._llm is not None and self._under_way:
            self._llm.llm_engine.abort_request(list(self._under_way))
        self._under_way.clear()

    def poll_unless(self, ready: Callable[[], bool]) -> list[Completion]:
        """As ``poll``, but asks between steps whether there is more to submit, and returns at once if so."""
        return [self._completion(output) for output in self._step_until_finished(ready)]

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights and forget every cached prefix.

        Raises:
            RuntimeError: If requests are under way: their next tokens would come from other weights.
            RunError: If vLLM does not forget its prefixes, which were read with the old weights.
        """
        llm = self._idle("load_weights")
        self._forget_adapter()
        failures: list[Exception] = []

        def until_it_fails() -> Iterator[tuple[str, torch.Tensor]]:
            try:
                yield from named_tensors
            except Exception as error:  # raised again below: broken off inside, vLLM could not load another time
                failures.append(error)

        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": until_it_fails()})
        if failures:
            raise failures[0]
        if not llm.reset_prefix_cache():
            raise RunError(
                f"vLLM must forget every prefix that it read before the weights of version {version}, but keeps some: "
                "something holds blocks of its cache, such as a key-value connector in `options`"
            )
        self._version = version

    def load_adapter(self, adapter: Adapter, version: int) -> None:
        """Put a LoRA adapter in front of the weights that were loaded last, in place of any other.

        Raises:
            RuntimeError: If requests are under way, or ``max_lora_rank`` is less than the adapter's rank.
        """
        rank, most = int(adapter.config["r"]), int(self._options.get("max_lora_rank", 0))
        if rank > most:
            raise RuntimeError(f"an adapter's rank must be <= the engine's max_lora_rank {most}, got {rank}")
        llm = self._idle("load_adapter")
        self._forget_adapter()
        self._adapters += 1
        folder = tempfile.TemporaryDirectory(prefix="gigpo-adapter-")  # vLLM may read it again
        adapter.save(folder.name)
        name = f"adapter-{self._adapters}"  # another name every time: vLLM's prefix cache goes by it
        from vllm.lora.request import LoRARequest

        request = LoRARequest(name, self._adapters, folder.name)
        llm.llm_engine.add_lora(request)
        self._adapter, self._adapter_folder = request, folder
        self._version = version

    def show_weights(self, shapes: Shapes, seed: int | None) -> Checksums:
        """The checksums of the weights that vLLM computes with, fused and packed ones, too."""
        adapter = None if self._adapter is None else self._adapter.lora_int_id
        shown = self._started().collective_rpc(show_weights, args=(shapes, seed, adapter))
        return [pair for of_worker in shown for pair in of_worker]

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Log-probability, at temperature 1, of each token of each completion after its prompt."""
        for index, (prompt, completion) in enumerate(pairs):
            self._add(f"score-{index}", (*prompt, *completion), SCORING)
        scores: dict[str, list[float]] = {}
        while len(scores) < len(pairs):
            for output in self._step_until_finished():
                tokens = zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
                scores[output.request_id] = [math.nan if row is None else row[token].logprob for token, row in tokens]
        return [scores[f"score-{index}"][len(prompt) :] for index, (prompt, _) in enumerate(pairs)]

    def sleep(self) -> None:
        """Free the weights and the key-value cache until ``wake``; a CPU has nothing to free.

        Raises:
            RuntimeError: If requests are under way, or a GPU's engine was not made with ``allow_sleep``.
        """
        if self._asleep:
            return
        if self._started().llm_engine.has_unfinished_requests():
            raise RuntimeError("sleep needs an idle engine, but requests are under way")
        if not self._on_cpu():
            if not self._allow_sleep:
                raise RuntimeError("sleep needs a VLLMEngine with allow_sleep: true")
            self._forget_adapter()
            self._llm.sleep(level=2)
        self._version = -1
        self._asleep = True

    def wake(self) -> None:
        """Take the memory back, which the next ``load_weights`` fills; nothing if it is awake."""
        if self._asleep and not self._on_cpu():
            self._llm.wake_up()
        self._asleep = False

    def close(self) -> None:
        """End for good; a second call does nothing."""
        self._closed = True
        if self._llm is not None:
            self._forget_adapter()
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None

    def _started(self) -> Any:
        if self._llm is None:
            if self._model is None:
                raise RuntimeError("the VLLMEngine has not been started; the WeightSync callback does that")
            self.start(self._model)
        if self._asleep:
            raise RuntimeError("the VLLMEngine is asleep: wake it first")
        return self._llm

    def _idle(self, what: str) -> Any:
        """The engine, which from now on has neither the old weights nor yet the new ones."""
        llm = self._started()
        self._begin_load(what, llm.llm_engine.has_unfinished_requests())
        return llm

    def _forget_adapter(self) -> None:
        if self._adapter is not None:
            self._llm.llm_engine.remove_lora(self._adapter.lora_int_id)
            self._adapter = None
        if self._adapter_folder is not None:
            self._adapter_folder.cleanup()
            self._adapter_folder = None

    def _on_cpu(self) -> bool:
        return bool(self._vllm.platforms.current_platform.is_cpu())

    def _uncompiled(self) -> AbstractContextManager[Any]:
        """Have vLLM compile nothing on a CPU: it would compile small functions anew for every shape, for minutes.

        The policy, which shares the process, may be compiled all the same.
        """
        return torch.compiler.set_stance("force_eager") if self._on_cpu() else nullcontext()

    def _add(self, request_id: str, prompt_ids: Sequence[int], sampling: Mapping[str, Any]) -> None:
        tokens = self._vllm.inputs.engine.tokens_input(list(prompt_ids))
        final = self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        parameters = self._vllm.SamplingParams(**sampling, output_kind=final)
        self._started().llm_engine.add_request(request_id, tokens, parameters, lora_request=self._adapter)
        self._under_way.add(request_id)

    def _step_until_finished(self, ready: Callable[[], bool] = lambda: False) -> list[Any]:
        engine = self._started().llm_engine
        finished: list[Any] = []
        with self._uncompiled():
            while not finished and engine.has_unfinished_requests():
                finished = [output for output in engine.step() if output.finished]
                if not finished and ready():
                    break
        self._under_way.difference_update(output.request_id for output in finished)
        return finished

    def _completion(self, output: Any) -> Completion:
        reply = output.outputs[0]
        return Completion(
            request_id=output.request_id,
            token_ids=tuple(reply.token_ids),
            logprobs=tuple(row[token].logprob for token, row in zip(reply.token_ids, reply.logprobs, strict=True)),
            finish_reason=reply.finish_reason,
            policy_version=self._version,
        )


def _among_ranks() -> dict[str, Any]:
    """What an engine must be told where every rank of a job has one."""
    rank, ranks = place()
    if ranks == 1:  # also in vLLM's own group, of an engine before this one
        return {}
    os.environ["RANK"] = str(rank)
    os.environ.setdefault("LOCAL_RANK", "0")
    return {"distributed_executor_backend": "external_launcher"}


def _import_vllm() -> Any:
    """Import vLLM with the settings that it reads at import time."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        import vllm.inputs.engine
        import vllm.platforms
        import vllm.sampling_params
    except ImportError as error:
        raise ImportError(
            f"VLLMEngine needs vLLM, which could not be imported ({error}). Install the extra 'cpu' (make install) or "
            "'cuda' (make install EXTRA=cuda)"
        ) from error
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    return vllm
