"""An agent of pydantic-ai: a tool is called first, then an answer of a type, to which the output is constrained."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic_ai import Agent, RunContext

import trimode as tm
from trimode.integrations.frameworks.pydantic_ai import TrimodeModel, TrimodeModelSettings


class Forecast(BaseModel):
    """A forecast."""

    sunny: bool
    degrees: int


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def settings(run: RunContext[None]) -> TrimodeModelSettings:
    """A call at first, then the answer."""
    choice = "required" if run.run_step < 2 else "none"
    return TrimodeModelSettings(tool_choice=choice, trimode_mode="quadratic_spec", max_tokens=60, temperature=0)


def main() -> None:
    engine = tm.Engine.load()
    agent = Agent(
        TrimodeModel(engine), name="forecaster", output_type=Forecast, tools=[weather], model_settings=settings
    )
    with tm.session(engine, trace="file:audit.jsonl"):
        run = agent.run_sync("What is the weather in Rome?")
    print(run.output)
    print(run.usage)


if __name__ == "__main__":
    main()
