"""strands on `trimode serve`: python with_strands.py URL (http://127.0.0.1:8000/v1)."""

from __future__ import annotations

import sys

from strands import Agent, tool
from strands.models.openai import OpenAIModel

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
DECODING = {"trimode": {"step": "strands", "mode": "quadratic_spec"}}


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


model = OpenAIModel(
    client_args={"base_url": URL, "api_key": "none"},
    model_id="trimode-reference",
    params={"max_tokens": 60, "temperature": 0, "extra_body": DECODING},
)
agent = Agent(model=model, tools=[weather], callback_handler=None)
print(agent("What is the weather in Rome?"))
