"""The most memory that a step of a model takes, told by every tensor that is made: nothing is computed or allocated."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from modules.token_logprobs import token_logprobs


class Tracker(TorchDispatchMode):
    """Adds up the storages that are alive, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operator, and look at what is there now."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        self.peak = max(self.peak, self.now())
        return made

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage from now on."""
        storage = tensor.untyped_storage()
        self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())

    def now(self) -> int:
        """Bytes that are alive."""
        for key in [key for key, (storage, _) in self.alive.items() if storage.expired()]:
            del self.alive[key]
        return sum(size for _, size in self.alive.values())


def peak_of_a_step(
    sizes: dict[str, Any],
    *,
    tokens: int,
    weight_type: str = "float32",
    autocast: bool = True,
    checkpointing: bool = True,
    lora_rank: int = 0,
    passes: int = 1,
) -> int:
    """Bytes beside the weights at the largest moment of a minibatch's forward and backward passes.

    Args:
        sizes: The model's ``config.json``.
        tokens: Of a micro-batch, in rows of 512, a quarter of them in replies.
        weight_type: Type of the weights.
        autocast: Whether products are of bfloat16.
        checkpointing: Whether activations are computed again.
        lora_rank: Rank of adapters that are trained instead of the weights.
        passes: Micro-batches.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = made(sizes, getattr(torch, weight_type), lora_rank)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        ids, chosen = torch.zeros(tokens // 512, 512, dtype=torch.int64), torch.zeros(tokens // 4, dtype=torch.int64)
        weights = sum(each.numel() * each.element_size() for each in model.parameters())
        with Tracker() as tracker:
            for weight in model.parameters():
                tracker.add(weight)
            for _ in range(passes):
                with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext():
                    step(model, ids, chosen)
    return tracker.peak - weights


def step(model: PreTrainedModel, ids: torch.Tensor, chosen: torch.Tensor) -> None:
    """What a policy does with a micro-batch."""
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[chosen]
    logprobs, _ = token_logprobs(hidden, model.get_output_embeddings().weight, chosen)
    del hidden
    logprobs.sum().backward()


def made(sizes: dict[str, Any], dtype: torch.dtype, lora_rank: int) -> PreTrainedModel:
    """The model, with adapters if they are wanted."""
    config = AutoConfig.for_model(**sizes)
    config._attn_implementation = "sdpa"
    with default(dtype):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
        if lora_rank:
            peft = importlib.import_module("peft")
            linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            model.requires_grad_(False)
            peft.inject_adapter_in_model(peft.LoraConfig(r=lora_rank, target_modules=linear), model)
    return model


@contextlib.contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    """Make tensors of this type; modules stay what and where they are made, as PEFT's cannot be moved without data."""
    before, to = torch.get_default_dtype(), torch.nn.Module.to
    torch.set_default_dtype(dtype)
    torch.nn.Module.to = lambda self, *args, **kwargs: self  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.nn.Module.to = to  # type: ignore[method-assign]
