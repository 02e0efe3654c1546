"""SAPO: a soft gate in the place of the clip (arXiv:2511.20347).

Shape letters: B = rows (steps) of a micro-batch, T = tokens of a row.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gigpo_lightning.algorithm.surrogates import MAX_LOG_RATIO
from gigpo_lightning.errors import check_range


class SoftGate:
    """(4/τ)·σ(τ·(r − 1))·A for every token (SAPO, arXiv:2511.20347).

    At r = 1 its gradient is that of r·A, and it fades on either side: nothing is cut off, so that ``clip_low``,
    ``clip_high`` and a credit's ``clip_scale`` play no part, and ``loss/clip_fraction`` is 0.

    Args:
        temperature: τ where A > 0; the larger, the sooner the gradient fades.
        negative_temperature: τ elsewhere.

    Raises:
        ValueError: If a temperature is not positive.
    """

    def __init__(self, temperature: float = 1.0, negative_temperature: float = 1.04) -> None:
        check_range("temperature", temperature, 1e-6)
        check_range("negative_temperature", negative_temperature, 1e-6)
        self.temperature = temperature
        self.negative_temperature = negative_temperature

    def objective(
        self,
        log_ratio: Float[Tensor, "B T"],
        advantage: Float[Tensor, "B T"],
        action_mask: Bool[Tensor, "B T"],
        clip_low: float | Float[Tensor, "B 1"],
        clip_high: float | Float[Tensor, "B 1"],
        progress: float,
    ) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """The gated advantage; no token is clipped."""
        temperature = torch.where(advantage > 0, self.temperature, self.negative_temperature).to(log_ratio.dtype)
        ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        gate = 4 / temperature * torch.sigmoid(temperature * (ratio - 1))
        return gate * advantage, torch.zeros_like(action_mask)
