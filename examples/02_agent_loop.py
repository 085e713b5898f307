"""A small agent on a budget: decide, call a tool, talk; and what it spent."""

from __future__ import annotations

from typing import Literal

import trimode as tm


def book_table(restaurant: str, people: int) -> str:
    """Books a table at a restaurant."""
    return f"a table for {people} at {restaurant}"


TOOLS = [book_table]


@tm.step("choice")
def decide(request: str) -> Literal["book", "talk"]:
    """{request}"""
    return tm.ask()


@tm.step("tool_call", tools=TOOLS, max_tokens=80)
def act(request: str) -> tm.ToolCall:
    """{request}"""
    return tm.ask()


@tm.step("prose", max_tokens=40)
def reply(facts: str) -> str:
    """{facts}"""
    return tm.ask()


def turn(request: str) -> str:
    """One turn of the agent."""
    facts = request
    if decide(request) == "book":
        call = act.result(request)
        if call.valid:
            facts = str(tm.execute(call.value, TOOLS))
    return reply(facts)


def main() -> None:
    with tm.session(tm.Engine.load(), budget=tm.Budget(tokens=150)) as session:
        try:
            for request in ("a table for two at Roma, please", "and one for four", "thank you"):
                print(turn(request))
        except tm.BudgetExceeded as error:
            print(error)
    print(session.spent)


if __name__ == "__main__":
    main()
