"""Sending spans to collectors, named or by URL: while calls run, or later from an audit file.

Knows the OpenTelemetry SDK, OTLP and records. Does not know engines. Start with `setup.py`.
"""
