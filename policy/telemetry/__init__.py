"""Records as OpenTelemetry spans and metrics.

Knows attribute names, the OpenTelemetry API and records. Does not know its SDK, engines or files. Start with
`names.py`, then `spans.py`.
"""
