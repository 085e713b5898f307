"""instructor over OpenAI's client: typed answers by tools, by JSON mode and by JSON Schema."""

from __future__ import annotations

import checks
import instructor
from checks import ASK, MODEL, URL
from openai import OpenAI
from pydantic import BaseModel, Field


class Order(BaseModel):
    """How many apples there are."""

    count: int = Field(ge=0, le=999)
    fresh: bool


def made(mode: instructor.Mode) -> Order:
    client = instructor.from_openai(OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0), mode=mode)
    found = client.chat.completions.create(
        model=MODEL, messages=ASK, response_model=Order, max_tokens=80, max_retries=0
    )
    assert isinstance(found, Order)
    return found


def check_by_tools() -> None:
    made(instructor.Mode.TOOLS)


def check_by_json_schema() -> None:
    made(instructor.Mode.JSON_SCHEMA)


def check_partial_stream() -> None:
    client = instructor.from_openai(
        OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0), mode=instructor.Mode.JSON_SCHEMA
    )
    parts = list(client.chat.completions.create_partial(model=MODEL, messages=ASK, response_model=Order, max_tokens=80))
    assert parts[-1].count is not None


checks.run(globals())
