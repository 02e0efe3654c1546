"""Many runs of one command: ``gigpo-sweep`` composes configs with Hydra and carries each out with ``gigpo fit``."""
