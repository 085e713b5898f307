"""Log files as recorded calls, one reader a format. Start with `reading.py`.

Knows formats and recorded calls. Does not know engines or results.
"""
