"""Episodes by hand, for tests that need tokens."""

from collections.abc import Sequence
from typing import Any

from gigpo_lightning.trajectory import Step, StopReason, Trajectory, TrajectoryGroup


def step(prompt_ids: Sequence[int] = (1, 2), completion_ids: Sequence[int] = (3,), **fields: Any) -> Step:
    """A step with these tokens; each token's log-probability is a hundredth of its id, negated."""
    return Step(
        **{
            "observation": "a room",
            "anchor_key": "a room",
            "prompt_ids": tuple(prompt_ids),
            "completion_ids": tuple(completion_ids),
            "logprobs": tuple(-token / 100 for token in completion_ids),
            "response": "look",
            "action": "look",
            "valid_action": True,
            "reward": 0.0,
            "policy_version": 0,
            **fields,
        }
    )


def trajectory(*steps: Step, episode_index: int = 0, success: bool = False, **fields: Any) -> Trajectory:
    """An episode of these steps."""
    return Trajectory(
        task_id="task",
        kind="kind",
        episode_index=episode_index,
        steps=steps,
        success=success,
        **{"stop_reason": StopReason.TERMINATED, **fields},
    )


def group(*trajectories: Trajectory) -> TrajectoryGroup:
    """A group of these episodes."""
    return TrajectoryGroup(task_id="task", trajectories=trajectories)
