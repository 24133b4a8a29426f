"""Measures speed and memory, and whether a device agrees with the CPU: `python -m benchmarks --help`."""
