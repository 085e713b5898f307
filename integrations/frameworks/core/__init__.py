"""What the adapters of agent frameworks share: a call as it is asked for, its turn in pieces, its facts and failures.

Knows engines and turns. Does not know frameworks, or how a mode is chosen.
"""
