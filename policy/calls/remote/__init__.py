"""Calls whose decoding a server does: the same engine to its callers, over the protocol of `policy/remote`."""
