"""JSON Schema documents: which are taken, and the plainer, equivalent forms in which a grammar engine gets them.

Knows the drafts of JSON Schema, references, patterns, numbers, and the validator that checks finished values. Does not
know Python types, tools, tokens or grammar engines. Start with `admission.py`, then `normal_form.py`.
"""
