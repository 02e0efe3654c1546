"""Generation with Transformers alone, for machines without vLLM: correct, and slower.

Shape letters: B = replies of a cohort, V = vocabulary.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from gigpo_lightning.engines.adapter import Adapter
from gigpo_lightning.engines.base import Completion, EngineBase, GenerationRequest
from gigpo_lightning.engines.weight_proof import Checksums, Shapes, show_tensors
from gigpo_lightning.errors import check_count
from gigpo_lightning.memory.engine import EngineSettings


@dataclass(slots=True, kw_only=True)
class _Reply:
    """A reply under way."""

    request: GenerationRequest
    noise: torch.Generator
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def finish_reason(self) -> str:
        """``"stop"`` or ``"length"`` once it has ended, else empty."""
        if self.token_ids and self.token_ids[-1] in self.request.stop_token_ids:
            return "stop"
        return "length" if len(self.token_ids) >= self.request.sampling.max_tokens else ""


@dataclass(slots=True, kw_only=True)
class _Cohort:
    """Replies that began together: they share a cache, and each of its columns."""

    replies: list[_Reply]
    cache: Any
    attention_mask: Tensor
    """1 where a column holds a token of the reply, ``(B, columns so far)``."""
    next_ids: Tensor
    """What each reply reads next, ``(B, columns)``: its prompt, and then its last token."""


class TransformersEngine(EngineBase):
    """A copy of the policy that writes replies by Transformers, one token of every reply at a time.

    Requests that wait when it is polled form a cohort, padded to its longest prompt. Cohorts go on side by side, so
    nothing waits for the slowest reply. There is no chunked prefill, paged cache or prefix cache: vLLM is many times
    faster.

    Args:
        dtype: Type of the engine's weights.
        device: Where it computes; ``"auto"`` takes a GPU if there is one.
        max_model_len: Longest prompt plus reply, in tokens; default: what the model allows.
        max_num_seqs: Replies that are written at the same time.
        attention: Attention implementation, as Transformers names it.
        trust_remote_code: Run code that the checkpoint brings along. Never unless you ask for it.

    Raises:
        ValueError: If ``max_num_seqs`` or ``max_model_len`` is not positive.
    """

    def __init__(
        self,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        device: str = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        attention: str = "sdpa",
        trust_remote_code: bool = False,
    ) -> None:
        for name, value in (("max_num_seqs", max_num_seqs), ("max_model_len", max_model_len)):
            check_count(name, 1 if value is None else value)
        self._dtype = getattr(torch, dtype)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._asked_length = max_model_len
        self._max_num_seqs = max_num_seqs
        self._attention = attention
        self._trust_remote_code = trust_remote_code
        self._model: Any = None
        self._waiting: list[GenerationRequest] = []
        self._cohorts: list[_Cohort] = []
        self._has_adapter = False

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus reply, in tokens; 0 before the start."""
        if self._model is None:
            return 0
        return self._asked_length or int(self._model.config.max_position_embeddings)

    def memory_settings(self, on_gpu: bool) -> EngineSettings:
        """Settings that decide its memory: the cache grows with the replies."""
        return EngineSettings(
            kind="growing",
            weight_type=str(self._dtype).removeprefix("torch."),
            max_model_len=self._asked_length,
            max_num_seqs=self._max_num_seqs,
            max_num_batched_tokens=0,  # it reads the prompts of a cohort at once, however long
            graphs=False,
        )

    def start(self, model_folder: str) -> None:
        """Start on the architecture that a folder's ``config.json`` describes; a second call does nothing."""
        if self._model is not None:
            return
        from transformers import AutoConfig, AutoModelForCausalLM  # takes seconds, and other engines do not need it

        config = AutoConfig.from_pretrained(model_folder, trust_remote_code=self._trust_remote_code)
        model = AutoModelForCausalLM.from_config(
            config, dtype=self._dtype, attn_implementation=self._attention, trust_remote_code=self._trust_remote_code
        )
        self._model = model.to(self._device).eval().requires_grad_(False)

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; returns at once.

        Raises:
            ValueError: If prompt and reply together are longer than the model's context.
        """
        self._started()
        self._check_length(request, self.max_model_len)
        self._waiting.append(request)

    @torch.no_grad()
    def poll_unless(self, ready: Callable[[], bool]) -> list[Completion]:
        """As ``poll``, but asks between tokens whether there is more to submit, and returns at once if so."""
        finished: list[Completion] = []
        while not finished and (self._waiting or self._cohorts):
            room = self._max_num_seqs - sum(len(cohort.replies) for cohort in self._cohorts)
            if room > 0 and self._waiting:
                self._cohorts.append(self._cohort(self._waiting[:room]))
                self._waiting = self._waiting[room:]
            for cohort in self._cohorts:
                finished += self._write_one_token(cohort)
            self._cohorts = [cohort for cohort in self._cohorts if cohort.replies]
            if not finished and ready():
                break
        return finished

    def cancel(self) -> None:
        """Drop every request that is under way."""
        self._waiting, self._cohorts = [], []

    def load_weights(self, named_tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Replace the weights.

        Raises:
            RuntimeError: If requests are under way, or a tensor is missing, unknown or of another shape.
        """
        self._begin_load("load_weights", bool(self._waiting or self._cohorts))
        self._forget_adapter()
        ours = self._started().state_dict()
        missing = set(ours)
        for name, tensor in named_tensors:  # one by one: each may be gathered just for this
            if name not in ours:
                raise RuntimeError(f"load_weights must bring this model's weights, but {name} is another's")
            ours[name].copy_(tensor)
            del tensor
            missing.discard(name)
        if missing:
            raise RuntimeError(f"load_weights must bring every weight, but {min(missing)} is missing")
        self._version = version

    def load_adapter(self, adapter: Adapter, version: int) -> None:
        """Put a LoRA adapter in front of the weights that were loaded last, in place of any other; needs PEFT.

        Raises:
            RuntimeError: If requests are under way, or the adapter does not fit the model.
        """
        self._begin_load("load_adapter", bool(self._waiting or self._cohorts))
        self._forget_adapter()
        model = self._started()
        with tempfile.TemporaryDirectory(prefix="gigpo-adapter-") as folder:
            adapter.save(folder)
            from peft import PeftModel

            self._model = PeftModel.from_pretrained(model, folder).eval()
        self._has_adapter = True
        self._version = version

    def show_weights(self, shapes: Shapes, seed: int | None) -> Checksums:
        """The checksums of the tensors that it computes with, each of which it keeps whole."""
        tensors = self._started().state_dict()
        if self._has_adapter:  # PEFT saves them under shorter names
            tensors = {_saved_name(name): tensor for name, tensor in tensors.items()}
        return show_tensors(tensors, shapes, seed)

    @torch.no_grad()
    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Log-probability, at temperature 1, of each token of each completion after its prompt."""
        model, scores = self._started(), []
        for prompt, completion in pairs:
            ids = torch.tensor([[*prompt, *completion]], device=self._device)
            logprobs = torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), dim=-1)
            chosen = logprobs.gather(-1, ids[0, 1:].unsqueeze(-1)).squeeze(-1)
            scores.append(chosen[len(prompt) - 1 :].tolist())
        return scores

    def sleep(self) -> None:
        """Move the weights off the GPU until ``wake``; nothing on a CPU."""
        self._started().to("cpu")
        self._version = -1  # until it is awake and has weights again

    def wake(self) -> None:
        """Take the memory again."""
        self._started().to(self._device)

    def close(self) -> None:
        """End for good; a second call does nothing."""
        self._model, self._waiting, self._cohorts = None, [], []

    def _forget_adapter(self) -> None:
        if self._has_adapter:
            self._model = self._model.unload()
            self._has_adapter = False

    def _started(self) -> Any:
        if self._model is None:
            raise RuntimeError("the TransformersEngine has not been started; the WeightSync callback does that")
        return self._model

    def _cohort(self, requests: Sequence[GenerationRequest]) -> _Cohort:
        """Stack prompts, padded on the left, so that their last tokens share a column."""
        width = max(len(request.prompt_ids) for request in requests)
        prompts = torch.zeros((len(requests), width), dtype=torch.long)
        mask = torch.zeros_like(prompts)
        for row, request in enumerate(requests):
            prompts[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            mask[row, width - len(request.prompt_ids) :] = 1
        replies = [_Reply(request=request, noise=torch.Generator().manual_seed(request.seed)) for request in requests]
        from transformers import DynamicCache

        return _Cohort(
            replies=replies,
            cache=DynamicCache(config=self._model.config),
            attention_mask=mask.to(self._device),
            next_ids=prompts.to(self._device),
        )

    def _write_one_token(self, cohort: _Cohort) -> list[Completion]:
        """Give every reply of a cohort its next token, and remove the replies that end."""
        columns = cohort.next_ids.shape[1]
        positions = (cohort.attention_mask.cumsum(1) - 1).clamp(min=0)[:, -columns:]
        logits = self._model(
            input_ids=cohort.next_ids,
            attention_mask=cohort.attention_mask,
            position_ids=positions,
            past_key_values=cohort.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        for reply, row in zip(cohort.replies, logits.float().cpu(), strict=True):
            _draw(reply, row)
        going = [row for row, reply in enumerate(cohort.replies) if not reply.finish_reason]
        finished = [
            Completion(
                request_id=reply.request.request_id,
                token_ids=tuple(reply.token_ids),
                logprobs=tuple(reply.logprobs),
                finish_reason=reply.finish_reason,
                policy_version=self._version,
            )
            for reply in cohort.replies
            if reply.finish_reason
        ]
        if finished and going:
            rows = torch.tensor(going, device=self._device)
            cohort.cache.batch_select_indices(rows)
            cohort.attention_mask = cohort.attention_mask[rows]
        cohort.replies = [cohort.replies[row] for row in going]
        if going:
            cohort.next_ids = torch.tensor([[reply.token_ids[-1]] for reply in cohort.replies], device=self._device)
            ones = torch.ones_like(cohort.attention_mask[:, :1])
            cohort.attention_mask = torch.cat([cohort.attention_mask, ones], dim=1)
        return finished


def _saved_name(name: str) -> str:
    """A tensor's name in a checkpoint or in the adapter's folder."""
    if ".lora_" in name:
        return name.replace(".default.", ".")
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _draw(reply: _Reply, logits: Tensor) -> None:
    """Draw a reply's next token from its logits ``(V,)`` with the reply's generator."""
    temperature = reply.request.sampling.temperature
    logprobs = torch.log_softmax(logits / temperature if temperature > 0 else logits, dim=-1)
    if temperature > 0:
        token = int(torch.multinomial(logprobs.exp(), 1, generator=reply.noise))
    else:
        token = int(logprobs.argmax())
    reply.token_ids.append(token)
    reply.logprobs.append(float(logprobs[token]))
