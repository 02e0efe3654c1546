"""Dr. GRPO: GRPO without its division by the standard deviation (arXiv:2503.20783)."""

from gigpo_lightning.algorithm.grpo import GRPO


class DrGRPO(GRPO):
    """A trajectory's return less the mean of its group, for every one of its steps.

    Dividing by the standard deviation would weigh tasks by how much their returns agree; Dr. GRPO leaves it out. The
    other half of the method is in the loss, which must not divide by a reply's length: ``aggregation: sequence``.
    Equal to ``GRPO()``, whose default leaves it out too, and with no way to put it back.

    Args:
        invalid_action_penalty: Subtracted for an invalid action, in units of reward; a positive number.
        own_step_penalty: Count the penalty where it was incurred and nowhere else, as in ``GiGPO``.
    """

    def __init__(self, invalid_action_penalty: float = 0.1, own_step_penalty: bool = False) -> None:
        super().__init__(
            scale_by_std=False, invalid_action_penalty=invalid_action_penalty, own_step_penalty=own_step_penalty
        )
