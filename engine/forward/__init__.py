"""One ragged forward pass over the segments of all running requests.

Knows weights, pages and segments. Does not know modes. Start with `batch.py`.
"""
