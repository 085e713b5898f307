"""What output may be asked for: types, JSON Schemas, tools in every published shape, and plain-text formats.

Knows pydantic, the shapes of tools and envelopes, regular expressions. Does not know tokens, grammar engines or torch;
what JSON Schema means is `json_schema`'s. Start with `targets.py`.
"""
