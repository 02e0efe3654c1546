"""Many runs of one command: ``gigpo-sweep`` composes configs with Hydra and carries each out with ``gigpo fit``."""

from gigpo_lightning.sweep.command import main as main
