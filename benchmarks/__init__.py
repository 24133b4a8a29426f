"""How fast it is, and whether a device computes what a CPU does: `python -m benchmarks --help`."""
