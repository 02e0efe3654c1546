"""The policy network, and the protocol of classes that make it.

Shape letters: S = replies of a micro-batch, R = tokens of the longest, A = tokens of all; B, T = its rows and their
length; H = width of the hidden states.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from gigpo_lightning.policy_view import AdaptedWeights
from gigpo_lightning.token_batch import TokenBatch
from gigpo_lightning.token_trees import RowRules
from modules.attention import Attention, attention_of, leave_out_cudnn
from modules.compilation import compile_blocks
from modules.finite import first_not_finite
from modules.token_logprobs import token_logprobs
from modules.tokenizer import TransformersTokenizer
from modules.tokenizer_folder import save_tokenizer


class Policy(nn.Module):
    """A causal language model that says how likely its own replies are.

    It is a ``PolicyView`` of itself, for training without Lightning.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        attention: Implementation of attention, as Transformers names it; default: what suits the model and its device.
        compiled: Whether its blocks are compiled when they are first called.

    Raises:
        ValueError: If the model caps its logits, as Gemma 2 does: replies would get other log-probabilities.
    """

    rescores: bool = False
    """Whether ratios are taken to its own log-probabilities; what ``loss.importance_correction`` needs."""

    @property
    def adapted(self) -> AdaptedWeights | None:
        """Its weights and adapters apart, if it has adapters."""
        return None

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: TransformersTokenizer,
        attention: str | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        if cap := getattr(model.config.get_text_config(), "final_logit_softcapping", None):
            raise ValueError(f"model must not cap its logits, got final_logit_softcapping {cap} in its configuration")
        self.model = model
        self.tokenizer = tokenizer
        self.wanted_attention = attention
        self.policy_version = 0
        if compiled:
            compile_blocks(self.blocks)

    @property
    def blocks(self) -> list[nn.Module]:
        """The decoder blocks, in order: what a strategy shards one by one."""
        names = set(getattr(self.model, "_no_split_modules", None) or ())
        return [module for module in self.model.modules() if type(module).__name__ in names]

    def attention(self, device: str | None = None) -> Attention:
        """How it computes attention on a type of device; default: on that of its weights."""
        return attention_of(self.model, device or next(self.parameters()).device.type, self.wanted_attention)

    @property
    def row_rules(self) -> RowRules:
        """How its attention wants sequences to lie in rows."""
        return self.attention().rules

    def forward(
        self, tokens: TokenBatch, temperature: float = 1.0
    ) -> tuple[Float[Tensor, "S R"], Float[Tensor, "S R"]]:
        """Log-probability of every token that the policy wrote, and the entropy it was drawn with.

        Logits are made only where a written token needs them, never for the prompt, and a chunk at a time.

        Args:
            tokens: Prompts and replies.
            temperature: The temperature they were sampled at: what the engine's processed logprobs are of.

        Returns:
            Log-probabilities and entropies in nats, float32 ``(S, R)``, exactly 0 off the mask.
        """
        hidden = self._hidden(tokens)
        before = tokens.source[tokens.action_mask]
        head = cast("nn.Linear", self.model.get_output_embeddings())
        # A prompt's last state is read once for each of its replies. The gradient of indexing adds them up in whatever
        # order threads arrive; this one's order is fixed, and it is quicker.
        states = nn.functional.embedding(before, hidden.flatten(0, 1))
        logprobs, entropy = token_logprobs(
            states,
            head.weight,
            tokens.reply_ids[tokens.action_mask],
            bias=head.bias,
            temperature=temperature * _divisor(self.model),
        )
        return _spread(logprobs, tokens.action_mask), _spread(entropy, tokens.action_mask)

    def _hidden(self, tokens: TokenBatch) -> Float[Tensor, "B T H"]:
        """The last layer's states."""
        leave_out_cudnn(tokens.input_ids.device)
        attention = self.attention(tokens.input_ids.device.type)
        if self.model.config._attn_implementation != attention.name:
            self.model.config._attn_implementation = attention.name
        output = self.model.base_model(input_ids=tokens.input_ids, use_cache=False, **attention.inputs(tokens))
        return cast("Tensor", output.last_hidden_state)

    @torch.no_grad()
    def score(self, tokens: TokenBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """As ``forward``, without gradients and without dropout, on the device of the weights."""
        training = self.training
        self.eval()
        logprobs, entropy = self(tokens.to(next(self.parameters()).device), temperature)
        self.train(training)
        return logprobs, entropy

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids that the embedding has a row for."""
        return cast("int", self.model.config.vocab_size)

    def save_architecture(self, folder: str | Path) -> None:
        """Write the ``config.json`` that an engine starts on."""
        self.model.config.save_pretrained(folder)

    def check_finite_weights(self) -> None:
        """Refuse weights that an update has ruined.

        Raises:
            FloatingPointError: If one is not finite.
        """
        if name := first_not_finite(self.named_parameters()):
            raise FloatingPointError(f"the weight {name} must be finite")

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight by the name that its checkpoint gives it, tied ones under each of their names.

        Each is gathered when its turn comes, and not kept: two are never whole at once for this generator's sake.
        Feeding an engine from ``named_parameters()`` would leave out ``lm_head.weight`` of tied models, and an engine
        that keeps its own packed copy would go on sampling from the old one. Sharded weights are gathered one by one,
        which all ranks have to do together.
        """
        for name, weight in self.model.state_dict().items():
            yield name, gathered(weight)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The whole shape of each of ``named_weights``, in its order; nothing is gathered."""
        return {name: tuple(weight.shape) for name, weight in self.model.state_dict().items()}

    def save_pretrained(self, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write a folder that ``transformers`` loads and vLLM serves, of ``named_weights`` unless they are given."""
        weights = self._with_ties(dict(self.named_weights()) if weights is None else weights)
        self.model.save_pretrained(folder, state_dict=weights)
        save_tokenizer(self.tokenizer.tokenizer, folder)

    def save_tokenizer(self, folder: str | Path) -> None:
        """Write the tokenizer's files alone: with a ``config.json`` Transformers would look for whole weights."""
        save_tokenizer(self.tokenizer.tokenizer, folder)

    def _with_ties(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same weights, tied ones as one tensor, as they are known to be written once: copies are not."""
        first: dict[int, str] = {}
        named = self.model.state_dict(keep_vars=True)  # not those with adapters, which go by other names there
        return {name: weights[first.setdefault(id(named[name]), name) if name in named else name] for name in weights}


def gathered(weight: Tensor) -> Tensor:
    """A weight as it is where nothing is sharded; all ranks have to ask for it together."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def _divisor(model: PreTrainedModel) -> float:
    """What a model divides its logits by after its head: Granite's ``logits_scaling``, Cohere's ``logit_scale``."""
    config = model.config.get_text_config()
    divisor: float = getattr(config, "logits_scaling", None) or 1.0
    return divisor / (getattr(config, "logit_scale", None) or 1.0)


def _spread(values: Float[Tensor, " A"], action_mask: Bool[Tensor, "S R"]) -> Float[Tensor, "S R"]:
    """Put one value per written token back into rows, 0 elsewhere."""
    rows = torch.zeros(action_mask.shape, dtype=values.dtype, device=values.device)
    return rows.masked_scatter(action_mask, values)


def hide_bars_from_files() -> None:
    """Have Transformers draw its bars in a terminal alone: in a log file each is a line of a hundred fragments."""
    if not sys.stderr.isatty():
        disable_progress_bar()


@runtime_checkable
class PolicySource(Protocol):
    """Where a policy comes from; chosen by ``class_path``."""

    def build(self) -> Policy:
        """Make the policy, ready to be trained."""
