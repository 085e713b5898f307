"""agno on `trimode serve`: python with_agno.py URL (http://127.0.0.1:8000/v1)."""

from __future__ import annotations

import sys

from agno.agent import Agent
from agno.models.openai.like import OpenAILike

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
DECODING = {"trimode": {"step": "agno", "mode": "quadratic_spec"}}


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


model = OpenAILike(
    id="trimode-reference", base_url=URL, api_key="none", max_tokens=60, temperature=0, extra_body=DECODING
)
agent = Agent(model=model, tools=[weather], telemetry=False)
print(agent.run("What is the weather in Rome?").content)
