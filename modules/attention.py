"""Which attention computes token trees: chosen here, by the model and its device.

A token at q attends to one at k if and only if ``k <= q < until[k]``. Every implementation is told so in its own form:
as a mask, as blocks, or not at all where a row is one sequence and causal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from gigpo_lightning.token_batch import TokenBatch
from gigpo_lightning.token_trees import RowRules
from modules.compilation import uncompiled
from modules.tree_attention import QUICK, tree_attention

TOKEN_TREES = "token_trees"
"""Name under which Transformers knows this package's attention for CPUs."""
_BEST = {"cuda": ("flex_attention", "_supports_flex_attn"), "cpu": (TOKEN_TREES, "_supports_attention_backend")}
_BLOCK = 128  # tokens; what FlexAttention's kernels are made for


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """A way to compute attention over token trees.

    Attributes:
        name: The implementation, as Transformers names it.
        rules: How it wants sequences to lie in rows.
        mask: What the model is given for a batch.
        causal: Whether plain sequences need no mask, which is quickest.
    """

    name: str
    rules: RowRules
    mask: Callable[[TokenBatch], Any]
    causal: bool = True

    def inputs(self, tokens: TokenBatch) -> dict[str, Any]:
        """Mask and positions for the model; neither where each row is one sequence and its causal order is enough.

        Raises:
            ValueError: If a tree branches, and this attention would compute something else.
        """
        if self.causal and tokens.is_plain:
            return {"attention_mask": None, "position_ids": None}
        if not self.rules.shared and (not self.rules.one_row or tokens.branches):
            raise ValueError(f"tokens must be plain sequences for attention {self.name}, got trees that branch")
        return {"attention_mask": self.mask(tokens), "position_ids": tokens.position_ids}


def attention_of(model: PreTrainedModel, device: str, wanted: str | None = None) -> Attention:
    """Choose how a model computes attention over token trees.

    Only a model all of whose layers attend to everything before a token can share beginnings. Others, with sliding
    windows, recurrent layers or positions that are not given, get plain sequences.

    Args:
        model: The model.
        device: Type of the device it computes on.
        wanted: The implementation that a user wants, as Transformers names it; default: what suits device and model.

    Raises:
        ValueError: If it is this package's own, and the device is no CPU.
    """
    if wanted == TOKEN_TREES and device != "cpu":
        raise ValueError(f"attention must not be {TOKEN_TREES} on {device}, which is for CPUs; leave it out")
    name = str(wanted or model.config._attn_implementation)
    if name.startswith("flash") and not _is_recurrent(model):
        return Attention(name=name, rules=RowRules(shared=False, one_row=True), mask=_no_mask)
    if name not in _SHARED or not attends_to_everything(model):
        plain = "sdpa" if name == TOKEN_TREES else name
        return Attention(name=plain, rules=RowRules(shared=False), mask=_no_mask)
    if wanted is None and not _has_dropout(model):
        best, is_possible = _BEST.get(device, ("sdpa", "_supports_sdpa"))
        name = best if getattr(model, is_possible) else "sdpa"
    return _SHARED[name]


def attends_to_everything(model: PreTrainedModel) -> bool:
    """Whether all layers attend to everything before a token, at the positions that they are given."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    has_window = bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)
    everything = all(kind == "full_attention" for kind in kinds) if kinds else not has_window
    return everything and not _is_recurrent(model) and not getattr(config, "alibi", False)


def _has_dropout(model: PreTrainedModel) -> bool:
    """Whether attention drops some of its weights in training, by either of the names that configurations use."""
    config = model.config.get_text_config()
    return any(getattr(config, name, 0.0) for name in ("attention_dropout", "attn_pdrop"))


def _is_recurrent(model: PreTrainedModel) -> bool:
    """Whether a layer carries a state from token to token, and so into the next sequence of a row."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    return model._is_stateful or any("attention" not in kind or "linear" in kind for kind in kinds)


def leave_out_cudnn(device: torch.device) -> None:
    """Have PyTorch's own attention leave cuDNN out on a GPU, for the whole process.

    It makes a plan for every new shape, .1 to .2 s each, and hardly two micro-batches are alike (benchmarks/README.md).
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def block_mask(tokens: TokenBatch) -> BlockMask:
    """A batch's mask for FlexAttention, made without ever holding a row's square.

    Whether a block of keys counts for a later block of queries follows from the largest and the smallest ``until`` of
    the keys: somebody attends to it if the largest lies behind the first query, and everybody to all of it if the
    smallest lies behind the last.
    """
    until = tokens.until
    length = until.shape[1]
    num_blocks = -(-length // _BLOCK)
    blocks = torch.nn.functional.pad(until, (0, num_blocks * _BLOCK - length)).view(-1, num_blocks, _BLOCK)
    first = torch.arange(num_blocks, device=until.device).unsqueeze(1) * _BLOCK
    before = first > first.T  # the keys' block lies before the queries'
    everybody = before & (blocks.amin(2).unsqueeze(1) > first + _BLOCK - 1)
    somebody = (before & (blocks.amax(2).unsqueeze(1) > first)) | (first == first.T)

    return BlockMask.from_kv_blocks(
        *_in_order(somebody & ~everybody),
        *_in_order(everybody),
        BLOCK_SIZE=_BLOCK,
        mask_mod=lambda row, head, here, there: (there <= here) & (here < until[row, there]),
        seq_lengths=(length, length),
    )


def _in_order(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Of each block of queries, how many blocks of keys are wanted, and all of them, the wanted ones first."""
    order = wanted.int().argsort(dim=-1, descending=True, stable=True)
    return wanted.sum(-1, dtype=torch.int32).unsqueeze(1), order.to(torch.int32).unsqueeze(1).contiguous()


def _tree_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """Attention on a CPU: PyTorch's own for plain sequences, else tree by tree."""
    if attention_mask is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, None, **more)
        return output
    return tree_attention(query, key, value, attention_mask, more.get("scaling")), None


def _until(tokens: TokenBatch) -> Tensor:
    """``until`` in four dimensions, as models hand a mask on to their layers."""
    return tokens.until[:, None, None]


def _no_mask(tokens: TokenBatch) -> None:
    """Positions say where a sequence begins."""


# What is done with trees depends on the numbers in ``until``: a compiler could not see through it.
AttentionInterface.register(TOKEN_TREES, uncompiled(_tree_attention))
_SHARED = {
    "sdpa": Attention(name="sdpa", rules=RowRules(), mask=TokenBatch.attention_mask),
    "flex_attention": Attention(name="flex_attention", rules=RowRules(one_row=True), mask=block_mask, causal=False),
    TOKEN_TREES: Attention(name=TOKEN_TREES, rules=RowRules(one_row=True, quick=QUICK), mask=_until),
}
