"""What a recorded workload would gain under other engines and modes: `trimode workload`.

Knows logs, targets that answer a recorded call, scores, prices and intervals. Does not know the command line. Start
with `calls.py`, then `reading.py`, `runner.py` and `routing.py`.
"""
