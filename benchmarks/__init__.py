"""The benchmarks: each states its yardstick and measures both in one run. ``python -m benchmarks --help``."""
