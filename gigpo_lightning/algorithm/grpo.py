"""GRPO over whole episodes: GiGPO without its step level (arXiv:2402.03300, Eq. 3 of arXiv:2505.10978)."""

from typing import Literal

from gigpo_lightning.algorithm.gigpo import GiGPO


class GRPO(GiGPO):
    """Every step of a trajectory gets the trajectory's advantage in its group: GiGPO with ω = 0.

    Its defaults are GiGPO's, so that changing only ``class_path`` compares only the step level. Differs from
    arXiv:2402.03300, which divides by the standard deviation: set ``scale_by_std``. The anchor groups are still
    computed, for their metrics, and move nothing.

    Args:
        scale_by_std: Divide by the group's standard deviation.
        episode_statistics: As in GiGPO.
        invalid_action_penalty: As in GiGPO.
        penalty_placement: As in GiGPO.
        own_step_penalty: As in GiGPO.
    """

    def __init__(
        self,
        scale_by_std: bool = False,
        episode_statistics: Literal["trajectory", "step"] = "trajectory",
        invalid_action_penalty: float = 0.1,
        penalty_placement: Literal["reward", "step"] = "reward",
        own_step_penalty: bool = False,
    ) -> None:
        super().__init__(
            step_advantage_weight=0.0,
            scale_by_std=scale_by_std,
            episode_statistics=episode_statistics,
            invalid_action_penalty=invalid_action_penalty,
            penalty_placement=penalty_placement,
            own_step_penalty=own_step_penalty,
        )
