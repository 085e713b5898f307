"""MCP: tools of MCP servers as tools of a step (`tools.py`), and the audit as an MCP server (`audit_server.py`).

The SDK is imported by `connection.py` and `audit_server.py` alone.
"""
