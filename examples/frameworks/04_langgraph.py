"""An agent of LangChain whose calls follow our policy: a drafting mode for the traveller, `ar` for all others."""

from __future__ import annotations

from langchain.agents import create_agent

import trimode as tm
from trimode.integrations.frameworks.langchain import ChatTrimode
from trimode.integrations.frameworks.langchain_middleware import DecodeByNode


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def main() -> None:
    engine = tm.Engine.load()
    model = ChatTrimode(engine=engine, temperature=0, max_tokens=40)
    agent = create_agent(
        model,
        [weather],
        name="traveller",
        middleware=[DecodeByNode({"traveller": {"mode": "quadratic_spec"}}, default={"mode": "ar"})],
    )
    with tm.session(engine, trace="file:audit.jsonl"):
        found = agent.invoke({"messages": [("user", "What is the weather in Rome?")]})["messages"][-1]
    print(found.text)
    print(found.response_metadata["step"], found.response_metadata["mode"], found.usage_metadata["output_tokens"])


if __name__ == "__main__":
    main()
