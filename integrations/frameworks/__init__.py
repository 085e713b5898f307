"""trimode inside agent frameworks: one adapter a framework, over one shared core.

`core` knows engines and turns. Each adapter knows one SDK, which only it imports, and translates messages in, a turn
out, stream events and errors. Neither knows how a mode is chosen.
"""
