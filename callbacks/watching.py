"""What the callbacks that log an epoch's experience share."""

from lightning.pytorch import Callback

from gigpo_lightning.experience import Experience


class ExperienceCallback(Callback):
    """Is shown each epoch's experience before its first update, and logs it at the epoch's end.

    Attributes:
        experience: This rank's, of the current epoch; None if a run makes none.
    """

    experience: Experience | None = None

    def on_experience(self, experience: Experience) -> None:
        """Remember it; the DataModule calls this on every rank."""
        self.experience = experience
