"""Two agents of OpenAI's Agents SDK on one engine: the first hands over, the second calls a tool and talks."""

from __future__ import annotations

from agents import Agent, ModelSettings, RunConfig, Runner, function_tool, set_tracing_disabled

import trimode as tm
from trimode.integrations.frameworks.openai_agents import TrimodeProvider


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def main() -> None:
    set_tracing_disabled(True)  # the SDK's own traces go to its vendor; ours are OpenTelemetry spans
    engine = tm.Engine.load()
    required = ModelSettings(tool_choice="required", max_tokens=60)
    traveller = Agent("traveller", tools=[weather], model_settings=required)
    front = Agent("front", handoffs=[traveller], model_settings=required)
    with tm.session(engine, trace="file:audit.jsonl"):
        config = RunConfig(model_provider=TrimodeProvider(engine, temperature=0))
        run = Runner.run_sync(front, "What is the weather in Rome?", run_config=config)
    print(run.last_agent.name, run.final_output)
    print(run.context_wrapper.usage.output_tokens, "tokens")


if __name__ == "__main__":
    main()
