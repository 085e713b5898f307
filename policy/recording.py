"""Span and audit record of one call, from start to end, whatever happens in between.

Knows calls, engine results, records and their two sinks. Does not know how either is decoded.
"""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from uuid import uuid4

from trimode.engine.errors import CallCancelled
from trimode.engine.request import DecodeRequest, DecodeResult

from .audit import AuditFile
from .call import Call
from .content import captures
from .everywhere import files
from .record import CallRecord, PolicyUsed, Runtime, record_call
from .telemetry import CallSpan


@dataclass(slots=True)
class Recording:
    """A context manager around one call; fill in `request`, `result`, `valid` and `notes` as they become known."""

    call: Call
    runtime: Runtime
    audit: AuditFile | None
    text_of: Callable[[Sequence[int]], str]
    id: str = field(default_factory=lambda: uuid4().hex)
    request: DecodeRequest | None = None
    result: DecodeResult | None = None
    valid: bool | None = None
    notes: list[str] = field(default_factory=list)
    _span: CallSpan = field(init=False)
    _start: int = 0

    def __enter__(self) -> Recording:
        call = self.call
        said = call.messages or ({"role": "user", "content": call.prompt},)
        self._span = CallSpan(call=self.id, model=self.runtime.model, step=call.step, kind=call.kind, messages=said)
        self._start = time.time_ns()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        record = None
        if isinstance(error, GeneratorExit | CancelledError):
            error = CallCancelled("the caller left before the output was complete")
        try:
            if self.request is not None:
                record = self._record(self.request, error)
                for file in files(self.audit):
                    file.write(record)
        finally:
            self._span.end(record, error)

    def _record(self, request: DecodeRequest, error: BaseException | None) -> CallRecord:
        call, plan = self.call, self.call.plan
        keeps = captures("span") or any(file.content for file in files(self.audit))
        return record_call(
            call=self.id,
            step=call.step,
            kind=call.kind,
            requested=plan.settings.said(),
            request=request,
            result=self.result,
            policy=PolicyUsed(
                name=plan.policy.name, version=plan.policy.version, sha256=plan.policy.sha256, reason=plan.reason
            ),
            runtime=self.runtime,
            start_ns=self._start,
            end_ns=time.time_ns(),
            schema=None if call.schema is None else call.schema.document,
            schema_sha256=None if call.schema is None else call.schema.sha256,
            schema_valid=self.valid,
            notes=self.notes,
            error=error,
            text_of=self.text_of if keeps else None,
        )
