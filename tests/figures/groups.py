"""Groups of episodes by hand, and what GiGPO says of them."""

from collections.abc import Sequence

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.figures import CreditedEpisode, credited_groups
from gigpo_lightning.trajectory import StepTable, StopReason, Trajectory, TrajectoryGroup
from tests.episodes import step


def attempt(states: str, reward: float = 0.0, *, invalid: Sequence[int] = (), number: int = 0) -> Trajectory:
    """An episode through these states, one letter each, rewarded at its end; it is won if the reward is positive."""
    last = len(states) - 1
    steps = [
        step(
            observation=f"you are in {state}",
            anchor_key=state,
            response=f"go {index}",
            action=f"go {index}",
            valid_action=index not in invalid,
            reward=reward if index == last else 0.0,
        )
        for index, state in enumerate(states)
    ]
    return Trajectory(
        task_id="task",
        kind="kind",
        episode_index=number,
        steps=tuple(steps),
        success=reward > 0,
        stop_reason=StopReason.TERMINATED if reward > 0 else StopReason.MAX_STEPS,
        final_observation="the end",
    )


def group_of(*attempts: tuple[str, float]) -> TrajectoryGroup:
    """A group of (states, reward) pairs."""
    episodes = [attempt(states, reward, number=number) for number, (states, reward) in enumerate(attempts)]
    return TrajectoryGroup(task_id="task", trajectories=tuple(episodes))


def credited(*groups: TrajectoryGroup) -> list[list[CreditedEpisode]]:
    """The groups' episodes with GiGPO's credit."""
    return credited_groups(groups, GiGPO().estimate(StepTable.from_groups(groups)))
