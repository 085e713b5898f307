"""An agent of Google's Agent Development Kit: tools, then an output to whose schema it is constrained."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from google.adk.agents import LlmAgent
from google.adk.runners import InMemoryRunner
from google.genai import types
from pydantic import BaseModel, Field

import trimode as tm
from trimode.integrations.frameworks.google_adk import TrimodeLlm


class Forecast(BaseModel):
    """A forecast."""

    sky: Literal["sunny", "cloudy"]
    degrees: Annotated[int, Field(ge=-30, le=50)]


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


async def main() -> None:
    engine = tm.Engine.load()
    agent = LlmAgent(
        name="forecaster",
        model=TrimodeLlm(engine=engine, settings={"mode": "quadratic_spec"}),
        tools=[weather],
        output_schema=Forecast,
        generate_content_config=types.GenerateContentConfig(temperature=0, max_output_tokens=60),
    )
    runner = InMemoryRunner(agent=agent, app_name="weather")
    session = await runner.session_service.create_session(app_name="weather", user_id="you")
    asked = types.UserContent("What is the weather in Rome?")
    with tm.session(engine, trace="file:audit.jsonl"):
        events = [one async for one in runner.run_async(user_id="you", session_id=session.id, new_message=asked)]
    print(Forecast.model_validate_json(events[-1].content.parts[0].text))
    facts = events[-1].custom_metadata["trimode"]
    print(facts["step"], facts["modes"], events[-1].usage_metadata.candidates_token_count, "tokens")


if __name__ == "__main__":
    asyncio.run(main())
