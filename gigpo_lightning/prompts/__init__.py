"""Templates and the parsers of their replies, one file per environment."""
