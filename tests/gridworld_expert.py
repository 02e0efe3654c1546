"""An expert of the gridworld, for tests of behaviour cloning."""

from collections.abc import Sequence


class GreedyExpert:
    """Goes to the goal's row, then to its column, by the first free move; walls may hold it up."""

    def reset(self, instruction: str, observation: str) -> None:
        """Nothing to forget: the observation is the whole state."""

    def act(self, observation: str, admissible_actions: Sequence[str]) -> str:
        numbers = [int(word) for word in observation.split() if word.isdigit()]
        row, column, goal_row, goal_column = numbers
        wanted = ["down"] * (row < goal_row) + ["up"] * (row > goal_row)
        wanted += ["right"] * (column < goal_column) + ["left"] * (column > goal_column)
        return next((move for move in wanted if move in admissible_actions), admissible_actions[0])

    def observe(self, action: str) -> None:
        """Nothing to remember."""
