"""Bytes to and from servers: event streams, errors, retries, circuits and the thread that they run in."""
