"""What makes Sokoban levels, and an expert that solves them, without downloads."""
