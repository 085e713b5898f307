"""smolagents on `trimode serve`: python with_smolagents.py URL (http://127.0.0.1:8000/v1)."""

from __future__ import annotations

import sys

from smolagents import OpenAIModel, ToolCallingAgent, tool

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
DECODING = {"trimode": {"step": "smolagents", "mode": "quadratic_spec"}}


@tool
def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: The city.
    """
    return f"sunny in {city}"


model = OpenAIModel("trimode-reference", api_base=URL, api_key="none", max_tokens=60, extra_body=DECODING)
agent = ToolCallingAgent(tools=[weather], model=model, max_steps=1, verbosity_level=0)
agent.prompt_templates["system_prompt"] = "You call tools."  # its own is longer than the bundled model's context
print(agent.run("What is the weather in Rome?"))
