"""LiteLLM with the server as an OpenAI-compatible provider."""

from __future__ import annotations

import checks
import litellm
from checks import ASK, MODEL, URL
from pydantic import BaseModel, Field

GIVEN = {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": "none", "messages": ASK, "num_retries": 0}
TOOL = {
    "type": "function",
    "function": {
        "name": "calculator",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string", "maxLength": 12}},
            "required": ["expression"],
        },
    },
}


class Order(BaseModel):
    """A typed answer."""

    count: int = Field(ge=0, le=999)


def check_chat() -> None:
    found = litellm.completion(**GIVEN, max_tokens=12)
    assert found.choices[0].message.content
    assert found.usage.completion_tokens > 0


def check_stream() -> None:
    whole = litellm.completion(**GIVEN, max_tokens=12).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**GIVEN, max_tokens=12, stream=True)]
    assert "".join(pieces) == whole


def check_tools() -> None:
    found = litellm.completion(**GIVEN, tools=[TOOL], tool_choice="required", max_tokens=80)
    assert found.choices[0].message.tool_calls[0].function.name == "calculator"
    assert found.choices[0].finish_reason == "tool_calls"


def check_typed_format() -> None:
    found = litellm.completion(**GIVEN, response_format=Order, max_tokens=40)
    Order.model_validate_json(found.choices[0].message.content)


def check_mode_by_extra_body() -> None:
    found = litellm.completion(**GIVEN, max_tokens=8, extra_body={"trimode": {"mode": "ar"}})
    assert found.choices[0].message.content


def check_refusal() -> None:
    try:
        litellm.completion(**GIVEN, frequency_penalty=1.0)
    except litellm.BadRequestError as error:
        told = str(error)
    else:
        told = "accepted"
    assert "frequency_penalty" in told


async def check_asynchronous() -> None:
    assert (await litellm.acompletion(**GIVEN, max_tokens=8)).choices[0].message.content


checks.run(globals())
