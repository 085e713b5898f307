"""Requests of `/v1/decisions` and `/v1/systemone` as their clients send them.

Knows both documents (openai 3.57, `types/decision_create_params.py`; System One as pydantic-ai 2.68, litellm 1.110 and
jevbench 0.1 speak it). Does not know engines or HTTP. Whatever the models here do not name is refused by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, ValidationError

from trimode.engine.errors import RequestError

Model = TypeVar("Model", bound=BaseModel)


class BadDecision(RequestError):
    """A parameter that is unknown, missing or of a wrong value; `param` is its path, such as `questions[0].type`."""

    param: str
    code: str

    def __init__(self, message: str, param: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param, self.code = param, code


class Wire(BaseModel):
    """A document of a request: unknown keys and values of other types are refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)


class Breakpoint(Wire):
    """Accepted and without effect: prefixes are cached to the token wherever they end."""

    mode: Literal["explicit"]


class TextPart(Wire):
    type: Literal["input_text", "output_text"]
    text: str
    prompt_cache_breakpoint: Breakpoint | None = None


class RefusalPart(Wire):
    type: Literal["refusal"]
    refusal: str


class JsonPart(Wire):
    type: Literal["input_json"]
    data: dict[str, JsonValue] | list[dict[str, JsonValue]]


Parts = str | list[Annotated[TextPart | RefusalPart | JsonPart, Field(discriminator="type")]]


class MessageItem(Wire):
    type: Literal["message"] = "message"
    role: Literal["user", "developer", "system", "assistant"]
    content: Parts
    phase: Literal["commentary", "final_answer"] | None = None


class FunctionCall(Wire):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    namespace: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class CustomCall(Wire):
    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    input: str
    id: str | None = None
    namespace: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class CallOutput(Wire):
    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: str
    output: Parts
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


def _kind_of(item: Any) -> str:
    kind = item.get("type", "message") if isinstance(item, dict) else "message"
    return str(kind).removesuffix("_output") + "_output" if str(kind).endswith("_output") else str(kind)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[CustomCall, Tag("custom_tool_call")]
    | Annotated[CallOutput, Tag("function_call_output")]
    | Annotated[CallOutput, Tag("custom_tool_call_output")],
    Discriminator(_kind_of),
]


class Predicate(Wire):
    type: Literal["predicate"]
    instructions: Parts
    name: str | None = None


class ChoiceOption(Wire):
    value: str | bool
    description: str | None = None


class Choice(Wire):
    type: Literal["choice"]
    instructions: Parts
    choices: list[ChoiceOption]
    name: str | None = None


class Level(Wire):
    label: str
    description: str | None = None


class Score(Wire):
    type: Literal["score"]
    instructions: Parts
    levels: list[Level]
    name: str | None = None


Question = Predicate | Choice | Score


class CacheOptions(Wire):
    mode: Literal["implicit"] | None = None
    ttl: Literal["30m"] | None = None


class DecisionBody(Wire):
    """`POST /v1/decisions`. `prompt_cache_key` keys the prefix cache; `safety_identifier` has no use here."""

    model: str
    input: str | list[Item]
    questions: list[Annotated[Question, Field(discriminator="type")]]
    prompt_cache_key: str | None = None
    prompt_cache_options: CacheOptions | None = None
    safety_identifier: str | None = None


class NoulCriteria(Wire):
    true: JsonValue = None
    false: JsonValue = None


class Noul(Wire):
    type: Literal["noul"]
    instructions: JsonValue
    criteria: NoulCriteria | None = None


class OneChoice(Wire):
    type: Literal["choice"]
    instructions: JsonValue
    criteria: dict[str, JsonValue]


class OneScore(Wire):
    type: Literal["score"]
    instructions: JsonValue
    criteria: list[JsonValue]


class SystemOneBody(Wire):
    """`POST /v1/systemone`. `temperature` divides log-probabilities; `safety_identifier` has no use here."""

    model: str
    state: JsonValue
    questions: dict[str, Annotated[Noul | OneChoice | OneScore, Field(discriminator="type")]]
    temperature: float = 1.0
    safety_identifier: str | None = None


def validated(model: type[Model], body: Any) -> Model:
    """Returns the body as a model. Raises BadDecision, which names the first parameter that is wrong."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = max(error.errors(include_url=False, include_input=False), key=lambda one: len(one["loc"]))
    place = path_of(first["loc"], body)
    if first["type"] == "extra_forbidden":
        raise BadDecision(f"unknown parameter {place}", place, "unknown_parameter")
    if first["type"] == "missing":
        raise BadDecision(f"missing parameter {place}", place, "missing_required_parameter")
    raise BadDecision(f"{place}: {first['msg']}", place)


def path_of(location: Sequence[str | int], body: Any) -> str:
    """Returns pydantic's location as a path of the body, without the names of alternatives between its keys."""
    path, value = "", body
    for at, part in enumerate(location):
        if isinstance(part, int):
            path += f"[{part}]"
            value = value[part] if isinstance(value, list) and part < len(value) else None
        elif isinstance(value, dict) and (part in value or at == len(location) - 1):
            path += f".{part}" if path else part
            value = value.get(part)
    return path
