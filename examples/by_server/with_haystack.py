"""haystack on `trimode serve`: python with_haystack.py URL (http://127.0.0.1:8000/v1)."""

from __future__ import annotations

import sys
from typing import Annotated

from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import tool
from haystack.utils import Secret

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
DECODING = {"trimode": {"step": "haystack", "mode": "quadratic_spec"}}


@tool
def weather(city: Annotated[str, "The city."]) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


generator = OpenAIChatGenerator(
    api_key=Secret.from_token("none"),
    model="trimode-reference",
    api_base_url=URL,
    generation_kwargs={"max_tokens": 60, "temperature": 0, "extra_body": DECODING},
)
agent = Agent(chat_generator=generator, tools=[weather])
print(agent.run([ChatMessage.from_user("What is the weather in Rome?")])["last_message"].text)
