"""The choice of a mode: which mode and options a step gets, and why.

Knows settings, policies and numbers. Does not know schemas, records or tensors; nothing here measures or decodes (an
engine times its own passes in `calls/calibrate.py`). Start with `policies.py`, then `auto.py`.
"""
