"""A recorded call to a server as the request that asks for it again.

Knows records and requests. Does not know servers.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from trimode.engine.errors import RequestError
from trimode.engine.request import Sampling

from ...audit import CallRecord
from ...grammar import GrammarCompiler, grammar_text
from ...remote import Constraint, RemoteRequest, Scored, Turning
from ...schema import Schema, schema_of

_COUNTS: Final = ("candidates", "questions")
"""Options of records that count what was scored."""


def request_from(record: CallRecord, grammars: GrammarCompiler) -> RemoteRequest:
    """Returns the request of a record with content. Raises RequestError for others, SchemaRefused for a schema that is
    refused now."""
    if record.remote is None or record.remote.request is None:
        raise RequestError("the record holds no request to a server; record with content=True to ask again")
    asked: dict[str, Any] = dict(record.remote.request)
    mode: Any = record.options["mode"]
    turn = Turning(choice=asked["tool_choice"], parallel=asked["parallel"]) if "tool_choice" in asked else None
    return RemoteRequest(
        mode=mode,
        sampling=Sampling(**asdict(record.sampling)),
        max_tokens=record.max_tokens,
        messages=tuple(asked.get("messages", ())),
        prompt=asked.get("prompt"),
        prompt_ids=tuple(asked["prompt_ids"]) if "prompt_ids" in asked else None,
        continued=asked.get("continued", False),
        tools=tuple(asked.get("tools", ())),
        turn=turn,
        constraint=_constraint(asked, record.guarantee == "checked", grammars),
        stop=record.stop,
        thinking=asked.get("thinking"),
        knobs={name: value for name, value in record.options.items() if name not in ("mode", *_COUNTS)},
        step=record.step,
        kind=record.kind,
        scoring=tuple(map(Scored.of, asked.get("scoring", ()))),
    )


def _constraint(asked: dict[str, Any], checked: bool, grammars: GrammarCompiler) -> Constraint | None:
    form: Any = asked.get("form")
    if form is None:
        return None
    given = asked["constraint"]
    target = schema_of(given if form == "json" else {f"x-{form}": given})
    compiled = grammars.document(target) if isinstance(target, Schema) else grammar_text(target)
    return Constraint(form=form, given=given, compiled=compiled, checked=checked)
