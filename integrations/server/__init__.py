"""The HTTP server: one engine behind OpenAI's API, `trimode serve`.

Knows Starlette, the APIs' documents and one engine. Does not know how tokens are decoded. Start with `app.py`, then
`ask.py`, which every API's request becomes, and `runner.py`, which runs it.
"""
