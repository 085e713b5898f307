"""One call, fully resolved: the hand-off between what a caller said and what the engine does. Knows plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Unpack

from trimode.engine.errors import RequestError

from ..conversation import checked_ids, checked_messages, checked_text
from ..errors import PolicyError, SchemaError, StepError, shown
from ..json_schema import Formats
from ..schema import Schema, Target, called, held_to, schema_of, shapes_of
from ..selection import NAMES, STEP_KINDS, DecodePlan, Layer, SettingArguments, Settings, StepContext, StepKind, resolve
from .choice import candidates_of

Planner = Callable[[StepContext, Sequence[Layer]], DecodePlan]
"""Chooses the plan of a call by its context and its own settings."""


class CallOptions(SettingArguments, total=False):
    """What `generate`, `stream` and their async twins take besides a raw prompt.

    `messages`, in OpenAI's form, go through the checkpoint's chat template; with `continue_final_message` the output
    goes on with the last of them, an assistant's. `prompt_ids`: a prompt in token ids, control tokens included.
    `schema`: a type, JSON Schema (also as a `response_format`), tool list, Regex, Choice or Lark that the output is
    held to; `formats`: "assert" refuses formats that nobody here can check, which "annotate" leaves out with a note.
    `tools`, in any shape that people have them in, are shown to the model; with step="tool_call" and no schema they
    are also the schema. Without `mode` the session, `using` and the policy file in force choose, else the package's
    table by `step`. The rest are the options of `Settings`; None leaves one open.
    """

    messages: Sequence[Mapping[str, Any]] | None
    prompt_ids: Sequence[int] | None
    continue_final_message: bool
    tools: Sequence[Any]
    schema: Any
    formats: Formats | None
    step: StepKind | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What to write (`prompt`, raw, `prompt_ids`, or `messages` for the chat template), under which plan, held to what.

    `continued`: the last message, an assistant's, goes on. `notes`: what was changed before the engine saw it.
    `retried`: an attempt before broke what no grammar holds, so this one is held by a check, whatever its grammar
    holds.
    `max_passes`, `max_seconds`: where a session's budget ends.
    """

    step: str
    kind: StepKind
    plan: DecodePlan
    prompt: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    continued: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    schema: Target | None = None
    notes: tuple[str, ...] = ()
    retried: bool = False
    max_passes: int | None = None
    max_seconds: float | None = None

    @property
    def candidates(self) -> tuple[str, ...]:
        """What a choice is made of."""
        return candidates_of(self.schema)

    @property
    def characters(self) -> int:
        """Of all that has to be encoded."""
        return len(self.prompt or "") + sum(len(message["content"]) for message in self.messages)


def by_package(context: StepContext, given: Sequence[Layer]) -> DecodePlan:
    """The plan by the package's table alone."""
    return resolve(context, (), given)


def call_of(name: str, prompt: str | None, planner: Planner = by_package, /, **words: Unpack[CallOptions]) -> Call:
    """The call that plain arguments ask for; `name` is the function that took them."""
    known = {*CallOptions.__annotations__}
    if unknown := sorted(set(words) - known):
        raise PolicyError(f"{name}(): unknown argument {unknown[0]!r}; known: prompt, {', '.join(sorted(known))}")
    said = Settings.of({key: word for key, word in words.items() if key in NAMES and word is not None}, f"{name}()")
    step, tools, schema = words.get("step"), tools_of(words.get("tools"), f"{name}()"), words.get("schema")
    if step is not None and step not in STEP_KINDS:
        raise PolicyError(f"{name}(): unknown step kind {step!r}; known: {', '.join(STEP_KINDS)}")
    held, shapes = held_to(schema), shapes_of(tools)
    if (formats := words.get("formats")) is not None:
        if schema is None:
            raise SchemaError(f"{name}(): formats={formats!r} and no schema; formats belong to one")
        held = schema_of(schema, formats=formats)
    kind: StepKind = step or _kind(held, bool(tools))
    check_tool_call(kind, held, bool(tools), f"{name}()")
    notes = [TOOLS_BESIDE_SCHEMA] if tools and held is not None and step is None and kind != "tool_call" else []
    if said.retries is not None and (said.guarantee != "checked" or name in ("stream", "astream")):
        why = "guarantee='checked' alone tries again" if said.guarantee != "checked" else "a stream is one attempt"
        notes.append(f"retries={said.retries} has no part in this call: {why}")
    if held is None and kind == "tool_call":
        held = called(shapes)
    context = StepContext(kind=kind, name=name, schema_sha256=None if held is None else held.sha256)
    call = Call(
        step=name,
        kind=kind,
        plan=planner(context, [("call argument", said)]),
        tools=tuple(shape.described for shape in shapes),
        schema=held,
        notes=tuple(notes),
        **_asked(name, prompt, words),
    )
    if kind == "choice":
        candidates_of(call.schema)
    return call


def tools_of(tools: Any, origin: str) -> tuple[Any, ...]:
    """Raises SchemaError for what is no list of tools, such as one tool alone."""
    if tools is None:
        return ()
    if isinstance(tools, str | bytes | Mapping) or callable(tools) or not isinstance(tools, Iterable):
        raise SchemaError(f"{origin}: tools={shown(tools)}: expected a list of tools, also where there is one")
    return tuple(tools)


def check_tool_call(kind: StepKind, held: Target | None, has_tools: bool, origin: str) -> None:
    """Raises StepError for a tool call that no tool, or something else than the tools, says the form of."""
    if kind != "tool_call":
        return
    if held is None and not has_tools:
        raise StepError(f"{origin}: a tool_call step needs tools: tools=[...]")
    if has_tools and held is not None and not (isinstance(held, Schema) and held.tools):
        raise StepError(
            f"{origin}: a tool_call is held to its tools, and a schema beside them says something else; leave one of "
            "them out, or make it a step of kind 'json'"
        )


TOOLS_BESIDE_SCHEMA: Final = "tools were shown to the model, and the output is held to the schema beside them"


def _kind(held: Target | None, has_tools: bool) -> StepKind:
    if held is None:
        return "tool_call" if has_tools else "prose"
    if not isinstance(held, Schema):
        return "prose"
    return "tool_call" if held.tools and has_tools else "json"


def _asked(name: str, prompt: Any, words: CallOptions) -> dict[str, Any]:
    """What is to be read: a text, ids or messages, and whether the last message goes on."""
    messages, ids, continued = words.get("messages"), words.get("prompt_ids"), words.get("continue_final_message")
    given = {"prompt": prompt, "prompt_ids": ids, "messages": messages}
    named = [f"{word}=" for word, found in given.items() if found is not None]
    if len(named) != 1:
        raise RequestError(
            f"{name}(): pass either prompt= or messages= or prompt_ids=, not {' and '.join(named) or 'none'}"
        )
    if not isinstance(continued, bool | None):
        raise RequestError(f"{name}(): continue_final_message={shown(continued)}: expected true or false")
    found: dict[str, Any] = {"continued": bool(continued)}
    if messages is not None:
        found["messages"] = checked_messages(messages)
    elif ids is not None:
        found["prompt_ids"] = checked_ids(ids)
    else:
        found["prompt"] = checked_text(prompt, "prompt")
    if continued:
        _check_continued(found.get("messages", ()), words)
    return found


def _check_continued(messages: Sequence[Mapping[str, Any]], words: CallOptions) -> None:
    last: Mapping[str, Any] = messages[-1] if messages else {}
    if last.get("role") != "assistant" or not last.get("content") or "tool_calls" in last:
        raise RequestError(
            "continue_final_message: the last of messages= has to be an assistant's, with a text to go on from"
        )
    beside = [word for word in ("schema", "max_thinking_tokens") if words.get(word) is not None]
    if beside or words.get("step") in ("tool_call", "choice") or words.get("tools"):
        what = beside[0] if beside else "step and tools"
        raise RequestError(
            f"continue_final_message goes on with plain text: {what} would begin anew; leave one of them out"
        )


def choice_call(
    options: Sequence[str],
    prompt: str | None,
    messages: Sequence[Mapping[str, Any]] | None,
    tools: Sequence[Any],
    prompt_ids: Sequence[int] | None = None,
    planner: Planner = by_package,
) -> Call:
    """The call of `Engine.choice`. Raises RequestError for options that cannot be told apart."""
    if isinstance(options, str | bytes | Mapping) or not isinstance(options, Iterable):
        raise RequestError(f"options={shown(options)}: expected a list of strings")
    listed = [checked_text(option, f"options[{index}]") for index, option in enumerate(options)]
    if len(set(listed)) < len(listed) or not listed or not all(listed):
        raise RequestError(f"options={shown(listed)}: expected non-empty strings, at least one, each of them once")
    schema = {"enum": listed}
    return call_of(
        "choice", prompt, planner, messages=messages, prompt_ids=prompt_ids, tools=tools, step="choice", schema=schema
    )
