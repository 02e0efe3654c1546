"""An invented catalogue, and an expert that shops in it."""
