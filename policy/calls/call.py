"""One call, fully resolved: the hand-off between what a caller said and what the engine does. Knows plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from trimode.engine.errors import RequestError
from trimode.engine.request import Selection

from ..errors import PolicyError
from ..schema import Schema, Target, called, held_to, shapes_of
from ..selection import NAMES, STEP_KINDS, DecodePlan, Guarantee, Layer, Settings, StepContext, StepKind, resolve
from .choice import candidates_of

Planner = Callable[[StepContext, Sequence[Layer]], DecodePlan]
"""Chooses the plan of a call by its context and its own settings."""


class CallOptions(TypedDict, total=False):
    """What `generate`, `stream` and their async twins take besides a raw prompt.

    `messages` go through the checkpoint's chat template. `schema`: a type, JSON Schema (also as a `response_format`),
    tool list, Regex, Choice or Lark that the output is held to. `tools`, in any shape that people have them in, are
    shown to the model; with step="tool_call" and no schema they are also the schema. Without `mode` the session,
    `using` and the policy file in force choose, else the package's table by `step`. The rest are the knobs of
    `Settings`; None leaves one unsaid.
    """

    messages: Sequence[Mapping[str, Any]] | None
    tools: Sequence[Any]
    schema: Any
    step: StepKind | None
    mode: str | None
    block_length: int | None
    threshold: float | None
    selection: Selection | None
    rows: int | None
    exact: bool | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    max_tokens: int | None
    max_thinking_tokens: int | None
    stop: Sequence[str] | str | None
    guarantee: Guarantee | None
    retries: int | None
    deadline: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What to write (`prompt`, raw, or `messages` for the chat template), under which plan, held to what.

    `notes`: what was changed before the engine saw it. `retried`: an attempt before broke what no grammar holds, so
    this one is held by a check, whatever its grammar holds. `max_passes`, `max_seconds`: where a session's budget ends.
    """

    step: str
    kind: StepKind
    plan: DecodePlan
    prompt: str | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
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


def by_package(context: StepContext, given: Sequence[Layer]) -> DecodePlan:
    """The plan by the package's table alone."""
    return resolve(context, (), given)


def call_of(name: str, prompt: str | None, planner: Planner = by_package, /, **words: Unpack[CallOptions]) -> Call:
    """The call that plain arguments ask for; `name` is the function that took them."""
    known = {*CallOptions.__annotations__}
    if unknown := sorted(set(words) - known):
        raise PolicyError(f"{name}(): unknown argument {unknown[0]!r}; known: prompt, {', '.join(sorted(known))}")
    said = Settings.of({key: word for key, word in words.items() if key in NAMES and word is not None}, f"{name}()")
    step, tools, schema = words.get("step"), words.get("tools") or (), words.get("schema")
    if step is not None and step not in STEP_KINDS:
        raise PolicyError(f"{name}(): unknown step kind {step!r}; known: {', '.join(STEP_KINDS)}")
    held, shapes = held_to(schema), shapes_of(tools)
    kind: StepKind = step or ("tool_call" if tools else "json" if isinstance(held, Schema) else "prose")
    if held is None and kind == "tool_call" and tools:
        held = called(shapes)
    context = StepContext(kind=kind, name=name, schema_sha256=None if held is None else held.sha256)
    call = Call(
        step=name,
        kind=kind,
        plan=planner(context, [("call argument", said)]),
        prompt=prompt,
        messages=tuple(words.get("messages") or ()),
        tools=tuple(shape.described for shape in shapes),
        schema=held,
    )
    if kind == "choice":
        candidates_of(call.schema)
    return call


def choice_call(
    options: Sequence[str],
    prompt: str | None,
    messages: Sequence[Mapping[str, Any]] | None,
    tools: Sequence[Any],
    planner: Planner = by_package,
) -> Call:
    """The call of `Engine.choice`. Raises RequestError for options that cannot be told apart."""
    if len(set(options)) < len(options) or not options or not all(options):
        raise RequestError(f"options={list(options)!r}: expected non-empty strings, at least one, each of them once")
    schema = {"enum": list(options)}
    return call_of("choice", prompt, planner, messages=messages, tools=tools, step="choice", schema=schema)
