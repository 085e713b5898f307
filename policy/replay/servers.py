"""Replay of a call that a server decoded: asked again by its seed, or its recorded output validated again.

Knows records and engines. Does not know HTTP. No token ids of such a call exist here, so texts are compared; whether
another text is a surprise depends on what the server promises of seeds.
"""

from __future__ import annotations

import json
from typing import Any, Final, Self, cast

from trimode.engine.errors import TrimodeError

from ..audit import CallRecord, RemoteUsed, is_decision
from ..calls import Engine, RemoteEngine, request_from
from ..errors import SchemaViolation
from ..remote import check_url
from ..schema import Schema, schema_of, turn_of
from .replayed import Replay

PROMISED: Final = "replay"
"""What a server says of seeds that gives the same text for the same request and seed."""


class Servers:
    """Engines over the server at `url`, one for each kind and model of records, connected at the first record that it
    may be asked for again. `api_key_env`: name of the variable with the server's key."""

    def __init__(self, url: str, api_key_env: str | None = None) -> None:
        check_url(url)
        self._url, self._key = url, api_key_env
        self._connected: dict[tuple[str, str], Engine] = {}

    def of(self, remote: RemoteUsed) -> Engine | None:
        """Returns the engine for a record's call; None where its kind promises no seeds, so that another text would say
        nothing. Raises RemoteError or RequestError where the server cannot be asked."""
        if remote.seeds != PROMISED:
            return None
        key = (remote.kind, remote.model)
        if key not in self._connected:
            self._connected[key] = Engine.remote(
                self._url, remote.kind, model=remote.model, api_key_env=self._key, method=remote.method
            )
        return self._connected[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._connected.values():
            engine.close()


def revalidated(record: CallRecord, remote: RemoteUsed) -> Replay:
    """Validates the recorded output by its schema again, without asking the server."""
    where = f"decoded by pool {remote.pool!r} of a {remote.kind} server"
    if record.schema_sha256 is None or is_decision(record):
        what = "its scores were read, not written" if is_decision(record) else "there is no schema to validate by"
        message = f"{where}; {what}, and the server is not asked again"
        return Replay(call=record.call, outcome="impossible", message=message)
    try:
        _validate(record, remote)
    except SchemaViolation as error:
        known = record.schema_valid is False
        message = f"{where}; its output breaks its schema, as {'' if known else 'not '}recorded: {error.cause}"
        return Replay(call=record.call, outcome="valid" if known else "different", message=message)
    if record.schema_valid is not True:
        message = f"{where}; its output fits its schema now, and was recorded as {record.schema_valid}"
        return Replay(call=record.call, outcome="different", message=message)
    return Replay(call=record.call, outcome="valid", message=f"{where}; its output fits its schema")


def asked_again(record: CallRecord, remote: RemoteUsed, engine: RemoteEngine) -> Replay:
    """Asks for the call again, with the same seed, and compares texts."""
    try:
        answer = engine.server.submit(request_from(record, engine.grammars)).result()
    except TrimodeError as error:
        return Replay(call=record.call, outcome="impossible", message=f"not decoded: {error}")
    causes = tuple(
        f"{name}: {then} then, {now} now"
        for name, then, now in (
            ("model", remote.model, answer.model), ("version", remote.version, answer.version),
            ("kind", remote.kind, answer.kind), ("fingerprint", remote.fingerprint, answer.fingerprint),
        )
        if then != now
    )  # fmt: skip
    if (record.text, record.finish_reason) == (answer.text, answer.finish_reason):
        message = f"{len(answer.text)} characters, the same text by seed {record.sampling.seed}"
        return Replay(call=record.call, outcome="same", message=message, causes=causes)
    promised = remote.seeds == PROMISED
    why = "; ".join(causes) or ("a promise that is broken" if promised else f"seeds are {remote.seeds} there")
    return Replay(
        call=record.call,
        outcome="different" if promised else "impossible",
        message=f"another text for the same seed ({why})",
        field="text",
        then=str(record.text),
        now=answer.text,
        causes=causes,
    )


def _validate(record: CallRecord, remote: RemoteUsed) -> None:
    """Raises SchemaViolation where the recorded output is not valid."""
    document, text = cast(dict[str, Any], record.schema), record.text or ""
    turn = turn_of(document, record.schema_formats) if record.kind == "turn" else None
    if turn is None:
        target = schema_of(document) if record.schema_formats is None else Schema(document)
        target.parse(json.dumps(text) if record.kind == "choice" else text)
        return
    calls: Any = (remote.answer or {}).get("calls") or ()
    for call in calls:
        if turn.calls is None:
            raise SchemaViolation(text, "a call in a turn without tools")
        written = f'{{"name":{json.dumps(call["name"])},"arguments":{call["arguments"] or "{}"}}}'
        turn.calls.parse(written)
    if turn.answer is not None and not calls:
        turn.answer.parse(text)
