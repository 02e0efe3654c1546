"""What the core may ask of a policy that is being trained."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from gigpo_lightning.prompts.base import Tokenizer
from gigpo_lightning.token_batch import TokenBatch
from gigpo_lightning.token_trees import RowRules


@runtime_checkable
class PolicyTokenizer(Tokenizer, Protocol):
    """A tokenizer, and what only a trainer has to know of it."""

    @property
    def pad_token_id(self) -> int:
        """Fills rows up."""

    def is_unknown(self, word: str) -> bool:
        """Whether some part of a word has no token of its own."""

    def exact_text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens and all."""


@runtime_checkable
class AdaptedWeights(Protocol):
    """A policy of which only LoRA adapters are trained, whose other weights can be had without them."""

    adapter_config: Any
    """PEFT's configuration of the adapters."""

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The whole shape of each of ``base_weights``, in its order."""

    def base_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight by its checkpoint's name, as if there were no adapters."""

    def adapter_tensors(self) -> dict[str, Tensor]:
        """The adapters, by the names that PEFT's folders give them."""


@runtime_checkable
class PolicyView(Protocol):
    """A policy, as the player, the experience and the weight sync see it.

    ``modules.Policy`` fulfils it; so does ``modules.GiGPOModule``, whose policy a strategy may have sharded: its ranks
    then have to ask together for weights and scores.

    Attributes:
        policy_version: Number of updates that have made the weights.
    """

    policy_version: int

    @property
    def tokenizer(self) -> PolicyTokenizer:
        """Its tokenizer."""

    @property
    def row_rules(self) -> RowRules:
        """How its attention wants sequences to lie in rows."""

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids that its embedding has a row for."""

    @property
    def rescores(self) -> bool:
        """Whether ratios are taken to its own log-probabilities, and not to the engine's."""

    @property
    def adapted(self) -> AdaptedWeights | None:
        """Its weights and adapters apart, if adapters are all that is trained of it."""

    def save_architecture(self, folder: str | Path) -> None:
        """Write the ``config.json`` that an engine starts on."""

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight by its checkpoint's name, one gathered at a time; adapters are added to what they adapt."""

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The whole shape of each of ``named_weights``, in its order."""

    def check_finite_weights(self) -> None:
        """Refuse weights that an update has ruined.

        Raises:
            FloatingPointError: If one is not finite.
        """

    def score(self, tokens: TokenBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the replies, float32 ``(S, R)``, as in training but without gradients."""
