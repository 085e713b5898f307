"""The parts of `scripts/measure_auto.py`."""
