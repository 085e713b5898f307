"""A study for people and programs: tables, a page, JSON. Start with `page.py`.

Knows studies. Does not know how anything is measured.
"""
