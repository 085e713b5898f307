"""Span and audit record of one call, from start to end, also when the call fails or is cancelled.

Knows calls, engine results, spans and audit files. Does not know how tokens are decoded.
"""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from uuid import uuid4

from opentelemetry.context import Context

from trimode.engine.errors import CallCancelled
from trimode.engine.request import DecodeRequest
from trimode.engine.result import DecodeResult
from trimode.engine.scoring import QuestionsRequest, ScoreRequest

from ..audit import (
    CallFacts,
    CallRecord,
    HostRun,
    PieceOf,
    PolicyUsed,
    RemoteCall,
    Runtime,
    TextOf,
    audit_files,
    captures,
    record_call,
    record_remote_call,
    redacted_by,
    redacted_host,
)
from ..conversation import plain_text
from ..decisions import Asked
from ..errors import AuditWriteFailed, OutputRefused
from ..remote import RemoteRequest
from ..schema import Schema
from ..selection import Guarantee
from ..telemetry import CallSpan
from .call import Call
from .result import Result
from .scope import Scope, current_scope, host_around

Recorded = DecodeRequest | ScoreRequest | QuestionsRequest | RemoteRequest
"""Requests that leave a record."""


@dataclass(slots=True)
class Recording:
    """Context manager around one call. The caller sets `request`, `result`, `valid`, `notes` and `finished` (the result
    that is returned) as they become known; of a decision also `asked`, its questions, which take the schema's place;
    of a call to a server `remote`, which returns what is known of it at the end.
    Leaving it raises AuditWriteFailed if the record cannot be written.

    The scope is that of the creation: a stream that is read elsewhere is recorded in the session that opened it.
    """

    call: Call
    runtime: Runtime
    text_of: TextOf
    piece_of: PieceOf
    streamed: bool = False
    scope: Scope = field(default_factory=current_scope)
    id: str = field(default_factory=lambda: uuid4().hex)
    request: Recorded | None = None
    result: DecodeResult | None = None
    valid: bool | None = None
    guarantee: Guarantee | None = None
    logprobs: Sequence[float] | None = None
    asked: Asked | None = None
    remote: Callable[[BaseException | None], RemoteCall] | None = None
    notes: list[str] = field(default_factory=list)
    finished: Result | None = None
    _parent: Context = field(init=False)
    _host: HostRun = field(init=False)
    _span: CallSpan = field(init=False)
    _start: int = 0

    def __post_init__(self) -> None:
        self._parent = self.scope.parent()
        self._host = redacted_host(self.scope.redact, host_around(self._parent))

    def __enter__(self) -> Recording:
        call = self.call
        self._span = CallSpan(
            call=self.id,
            model=self.runtime.model,
            step=call.step,
            kind=call.kind,
            messages=self._prompt_messages(),
            agent=self.scope.agent,
            session=self.scope.session,
            streamed=self.streamed,
            redact=self.scope.redact,
            parent=self._parent,
        )
        if self.scope.counts is not None:
            self.scope.counts.inference_began()
        self._start = time.time_ns()
        return self

    def _prompt_messages(self) -> list[Mapping[str, Any]]:
        """Returns the prompt as messages of plain text, for the span."""
        call = self.call
        if call.prompt_ids is not None:
            return [{"role": "user", "content": self.text_of(call.prompt_ids) if captures("span") else ""}]
        if call.prompt is not None:
            return [{"role": "user", "content": call.prompt}]
        return [{"role": message["role"], "content": plain_text(message)} for message in call.messages]

    @property
    def prompt_tokens(self) -> int | None:
        """Number of prompt ids; None before there is a request, and where a server reads the prompt."""
        return None if self.request is None or isinstance(self.request, RemoteRequest) else len(self.request.prompt)

    def chunk(self, at: float) -> None:
        """Records on the span that a chunk of a stream arrived; `at`: `time.perf_counter` seconds."""
        self._span.chunk(at)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        record, unwritten = None, None
        if isinstance(error, GeneratorExit | CancelledError):
            error = CallCancelled("the caller left before the output was complete")
        try:
            if self.request is not None:
                record = redacted_by(self.scope.redact, self._record(self.request, error), self.text_of)
                unwritten = self._write(record, error)
        finally:
            self._span.end(record, unwritten or error)
        if unwritten is None:
            return
        if error is not None and not isinstance(
            error, Exception
        ):  # KeyboardInterrupt and the like must not be replaced
            error.add_note(str(unwritten))
            return
        raise unwritten

    def _write(self, record: CallRecord, error: BaseException | None) -> AuditWriteFailed | None:
        """Appends the record to all audit files; returns one error for all that failed, with the call's result."""
        failed = list[AuditWriteFailed]()
        for file in audit_files(self.scope.audit):
            try:
                file.write(record)
            except AuditWriteFailed as one:
                failed.append(one)
        if not failed:
            return None
        refused = error.result if isinstance(error, OutputRefused) else None
        result = refused if isinstance(refused, Result) else self.finished
        every = AuditWriteFailed([one.path for one in failed], failed[0].why, self.id, result)
        every.__cause__ = failed[0].__cause__
        return every

    def _record(self, request: Recorded, error: BaseException | None) -> CallRecord:
        call, plan, held = self.call, self.call.plan, self.asked or self.call.turn or self.call.schema
        keeps = captures("span") or any(file.content for file in audit_files(self.scope.audit))
        common: CallFacts = {
            "call": self.id,
            "step": call.step,
            "kind": call.kind,
            "session": self.scope.session,
            "agent": self.scope.agent,
            "requested": plan.settings.given(),
            "policy": PolicyUsed(
                name=plan.policy.name, version=plan.policy.version, sha256=plan.policy.sha256, reason=plan.reason
            ),
            "runtime": self.runtime,
            "start_ns": self._start,
            "end_ns": time.time_ns(),
            "schema": None if held is None else held.document,
            "schema_formats": call.schema.formats if isinstance(call.schema, Schema) else None,
            "schema_sha256": None if held is None else held.sha256,
            "schema_valid": self.valid,
            "notes": self.notes,
            "error": error,
            "guarantee": self.guarantee,
            "host": self._host,
            "served": self.scope.served,
            "logprobs": self.logprobs,
            "content": keeps or self.scope.redact is not None,
        }
        if isinstance(request, RemoteRequest):
            assert self.remote is not None
            return record_remote_call(self.remote(error), **common)
        return record_call(
            **common,
            request=request,
            result=self.result,
            text_of=self.text_of if keeps else None,
            piece_of=self.piece_of,
        )
