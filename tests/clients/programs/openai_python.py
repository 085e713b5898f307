"""OpenAI's Python client: typed parsing, streams, tools, errors, and what goes by `extra_body`."""

from __future__ import annotations

import checks
from checks import ASK, MODEL, URL
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from pydantic import BaseModel, Field

client = OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)


class Order(BaseModel):
    """A typed answer."""

    count: int = Field(ge=0, le=999)
    kind: str = Field(max_length=8)


TOOL = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Evaluates an expression.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string", "maxLength": 12}},
            "required": ["expression"],
            "additionalProperties": False,
        },
    },
}


def check_models() -> None:
    assert [one.id for one in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def check_chat() -> None:
    found = client.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=20, seed=1)
    assert found.choices[0].message.content
    assert found.usage.completion_tokens > 0
    assert found.usage.completion_tokens_details.accepted_prediction_tokens is not None


def check_typed_parse() -> None:
    found = client.chat.completions.parse(model=MODEL, messages=ASK, response_format=Order, max_completion_tokens=60)
    assert isinstance(found.choices[0].message.parsed, Order)


def check_stream_of_text() -> None:
    whole = client.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=120)
    with client.chat.completions.stream(model=MODEL, messages=ASK, max_completion_tokens=120) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(pieces) == final.choices[0].message.content == whole.choices[0].message.content


def check_usage_of_a_stream() -> None:
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=ASK, max_completion_tokens=8, stream=True, stream_options=options
        )
    )
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def check_tools() -> None:
    found = client.chat.completions.parse(
        model=MODEL, messages=ASK, tools=[TOOL], tool_choice="required", max_completion_tokens=80
    )
    (call,) = found.choices[0].message.tool_calls
    assert set(call.function.parsed_arguments) == {"expression"}
    answer = {"role": "tool", "tool_call_id": call.id, "content": "100"}
    again = [*ASK, found.choices[0].message, answer]
    said = client.chat.completions.create(
        model=MODEL, messages=again, tools=[TOOL], tool_choice="auto", max_completion_tokens=60
    )
    assert said.choices[0].message.content or said.choices[0].message.tool_calls


def check_stream_of_a_call() -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=ASK, tools=[TOOL], tool_choice="required", max_completion_tokens=80
    ) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert [event.name for event in done] == ["calculator"]


def check_mode_by_extra_body() -> None:
    texts, modes = set(), []
    for mode in ("ar", "linear_spec", "quadratic_spec"):
        found = client.chat.completions.create(
            model=MODEL, messages=ASK, max_completion_tokens=16, extra_body={"trimode": {"mode": mode}}
        )
        texts.add(found.choices[0].message.content)
        modes.append(found.trimode["segments"][0]["modes"])
    assert len(texts) == 1
    assert modes == [["ar"], ["linear_spec"], ["quadratic_spec"]]


def check_typed_errors() -> None:
    for error, param, more in [
        (BadRequestError, "frequency_penalty", {"frequency_penalty": 1.0}),
        (BadRequestError, "speed", {"extra_body": {"speed": 1}}),
        (NotFoundError, "model", {"model": "other"}),
    ]:
        try:
            client.chat.completions.create(**{"model": MODEL, "messages": ASK, **more})
        except error as found:
            told = found.param
        else:
            told = "accepted"
        assert told == param


def check_text_completions() -> None:
    found = client.completions.create(model=MODEL, prompt=["One", "Two"], max_tokens=4)
    assert [choice.index for choice in found.choices] == [0, 1]
    gap = client.completions.create(model=MODEL, prompt="He has 15 x 4 =", suffix=" dollars a day.", max_tokens=6)
    assert gap.choices[0].text


async def check_asynchronous_stream_left_early() -> None:
    async with AsyncOpenAI(base_url=f"{URL}/v1", api_key="none") as own:
        stream = await own.chat.completions.create(model=MODEL, messages=ASK, stream=True, max_completion_tokens=60)
        async for _ in stream:
            break
        await stream.close()
        assert (await own.models.list()).data


checks.run(globals())
