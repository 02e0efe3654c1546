"""Engines: token ids in, token ids and log-probabilities out. Each imports its library when it starts."""
