"""The faults of `benchmarks/fault_drill.py`, and what must hold after each of them."""
