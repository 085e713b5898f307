"""One call as data, and of the files that keep it.

Knows records, the hash chain and the rules about content. Does not know spans or engines, and imports no torch. Start
with `record.py`, then `trail.py`.
"""
