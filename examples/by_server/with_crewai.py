"""crewai on `trimode serve`: python with_crewai.py URL (http://127.0.0.1:8000/v1)."""

from __future__ import annotations

import os
import sys

os.environ["CREWAI_DISABLE_TELEMETRY"] = "true"

from crewai import LLM, Agent
from crewai.tools import tool

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
DECODING = {"trimode": {"step": "crewai", "mode": "quadratic_spec"}}


@tool("weather")
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


model = LLM(
    model="openai/trimode-reference", base_url=URL, api_key="none", max_tokens=60, temperature=0,
    additional_params={"extra_body": DECODING},
)  # fmt: skip
agent = Agent(
    role="guide", goal="Tell the weather.", backstory="You know cities.", llm=model, tools=[weather], max_iter=1
)
print(agent.kickoff("What is the weather in Rome?").raw)
