"""The parts of `scripts/measure_drafts.py`."""
