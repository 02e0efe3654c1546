"""What ``benchmarks/gpu_day.py`` runs; only the parts of a stage import more than the standard library."""
