"""Playing episodes: engines, environment pools and the collector."""
