"""What every mode works with: segments, sampled tokens, the gate, the state of one request.

Knows one request. Does not know the model. Start with `segment.py`.
"""
