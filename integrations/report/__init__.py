"""An audit file as one HTML page for people.

Knows records and the template. Does not know spans or engines. Start with `page.py`.
"""
