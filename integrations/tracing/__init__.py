"""Where spans go: collectors by name or address, live or from an audit file."""
