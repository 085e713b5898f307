"""The server as a Ray Serve application: a door, and replicas of one engine behind it.

Knows Ray Serve and the server. Does not know how tokens are decoded. Start with `application.py`. What
decides without Ray: `routing.py` (which replica), `delivered.py` (what a reader has already), `dispatch.py` (once more
elsewhere). Needs `pip install 'trimode[ray]'`.
"""
