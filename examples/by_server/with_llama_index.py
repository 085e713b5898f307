"""llama-index on `trimode serve`: python with_llama_index.py URL (http://127.0.0.1:8000/v1)."""

from __future__ import annotations

import asyncio
import sys

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai_like import OpenAILike

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
DECODING = {"trimode": {"step": "llama-index", "mode": "quadratic_spec"}}


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


async def main() -> None:
    model = OpenAILike(
        model="trimode-reference", api_base=URL, api_key="none", max_tokens=60, temperature=0, context_window=4096,
        is_chat_model=True, is_function_calling_model=True, additional_kwargs={"extra_body": DECODING},
    )  # fmt: skip
    agent = FunctionAgent(tools=[weather], llm=model)
    print(await agent.run("What is the weather in Rome?"))


asyncio.run(main())
