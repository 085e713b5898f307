"""What answers a recorded call again, and the order in which that is done. Start with `targets.py`.

Knows engines and recorded calls. Does not know logs, groups or prices.
"""
