"""Token credit: how the advantage of a step is spread over the tokens of its reply, before the update."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from gigpo_lightning.errors import check_range


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenFacts:
    """What is known of the replies of a micro-batch before the update.

    Attributes:
        advantage: Of each token that the policy wrote, its step's, 0 elsewhere, ``(S, R)``.
        action_mask: True on these tokens, ``(S, R)``.
        logprobs, entropy: Of the policy before the update, in nats, ``(S, R)``; None unless needed.
    """

    advantage: Float32[Tensor, "S R"]
    action_mask: Bool[Tensor, "S R"]
    logprobs: Float32[Tensor, "S R"] | None = None
    entropy: Float32[Tensor, "S R"] | None = None


@runtime_checkable
class TokenCredit(Protocol):
    """Spreads each step's advantage over its tokens; chosen by ``class_path``."""

    needs: frozenset[str]
    """The optional fields of ``TokenFacts`` that it reads, which cost a forward pass."""

    def spread(self, minibatches: Sequence[Sequence[TokenFacts]], progress: float) -> list[list[Tensor]]:
        """The advantage of every token of this rank, ``(S, R)`` of each micro-batch; what is off the mask is ignored.

        ``progress`` is the share of the run that is done, 0 in the first epoch and 1 in the last.
        """


class ForkingTokens:
    """Learns from the tokens alone at which the policy hesitates most (arXiv 2506.01939).

    A token keeps its step's advantage if its entropy is among the largest ``share`` of its minibatch; the others get 0.
    The loss still divides by all tokens. Differs from the paper: of several ranks each takes the share of its own.

    Args:
        share: Of the tokens that are learnt from; the paper has 0.2.

    Raises:
        ValueError: If ``share`` is not in [0, 1].
    """

    needs = frozenset({"entropy"})

    def __init__(self, share: float = 0.2) -> None:
        check_range("share", share, 0.0, 1.0)
        self.share = share

    def spread(self, minibatches: Sequence[Sequence[TokenFacts]], progress: float) -> list[list[Tensor]]:
        """A·1[H ≥ τ], where τ is the quantile 1 - share of the entropies H of a minibatch."""
        spread = []
        for minibatch in minibatches:
            entropies = [facts.entropy for facts in minibatch if facts.entropy is not None]  # all: it is needed
            written = torch.cat([each[facts.action_mask] for each, facts in zip(entropies, minibatch, strict=True)])
            kept = written.topk(round(self.share * len(written))).values
            threshold = kept.min() if len(kept) else torch.inf
            learnt = (each >= threshold for each in entropies)
            spread.append([facts.advantage * each for facts, each in zip(minibatch, learnt, strict=True)])
        return spread
