"""Errors of calls to servers, one class for each cause. Every message tells what was met and what to do.

TrimodeError (engine)
└── RemoteError              a call that a server did not serve; has the pool
    ├── ServerUnreachable    no connection: refused, unknown name, TLS, or closed before an answer
    ├── ServerTimeout        a phase took too long: connect, write, first or next
    ├── ServerFailed         the server answered with an error of its own (5xx)
    ├── ServerBusy           429 or 503, with what the server said about trying again
    ├── CallRefused          the server refused the request (4xx); also a RequestError
    ├── AnswerGarbled        what came is not the API: content type, encoding, JSON, missing fields
    ├── StreamBroken         the answer ended in the middle; has the text so far
    ├── CircuitOpen          the pool failed several times in a row and is left alone for a while
    ├── EveryPoolFailed      no pool that may serve the call did; has their errors
    ├── ConstraintNotHeld    the server accepted a constraint and did not keep it; also a RequestError
    ├── ScoresNotGiven       the server scores no tokens that it is given; also a RequestError
    ├── OutputCut            constrained output ended at max_tokens before it was complete
    └── NotReported          a count that the server did not give; also an AttributeError

Knows names and numbers. Does not know HTTP libraries. Messages never have keys or headers in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from trimode.engine.errors import RequestError, TrimodeError

from ..audit import AttemptMade

_SHOWN = 300
"""Number of characters of a server's own message that are repeated."""


class RemoteError(TrimodeError):
    """A call that a server did not serve. `pool`: name of the endpoint. `again`: whether the same call may succeed when
    it is made again, as far as the error's kind tells. `attempts`: what was tried, this included."""

    again: ClassVar[bool] = False
    pool: str
    attempts: tuple[AttemptMade, ...]

    def __init__(self, pool: str, message: str) -> None:
        super().__init__(f"{pool}: {message}" if pool else message)
        self.pool, self.attempts = pool, ()


class ServerUnreachable(RemoteError):
    """There is no connection, or it was closed before the answer began."""

    again = True

    def __init__(self, pool: str, why: str) -> None:
        super().__init__(pool, f"no answer from the server: {why}; is it running, and is the URL right?")


class ServerTimeout(RemoteError):
    """A phase of the call took too long. `phase`: connect, write, first (piece of the answer) or next; `seconds`: the
    limit."""

    again = True
    phase: str
    seconds: float

    def __init__(self, pool: str, phase: str, seconds: float) -> None:
        super().__init__(pool, f"phase {phase!r} took more than {seconds:g} s; raise Timeouts({phase}=...)")
        self.phase, self.seconds = phase, seconds


class ServerFailed(RemoteError):
    """The server answered with an error of its own. `status`: of HTTP, 0 inside a stream."""

    again = True
    status: int

    def __init__(self, pool: str, status: int, said: str) -> None:
        where = f"status {status}" if status else "an error inside the stream"
        super().__init__(pool, f"the server failed with {where}: {said[:_SHOWN]!a}")
        self.status = status


class ServerBusy(RemoteError):
    """The server takes no more calls now. `retry_after`: seconds that it asked to wait, None where it did not say."""

    again = True
    status: int
    retry_after: float | None

    def __init__(self, pool: str, status: int, retry_after: float | None) -> None:
        wait = "did not say when to try again" if retry_after is None else f"asks to wait {retry_after:g} s"
        super().__init__(pool, f"the server is busy (status {status}) and {wait}; lower the pool's limit, or wait")
        self.status, self.retry_after = status, retry_after


class CallRefused(RemoteError, RequestError):
    """The server refused the request. `status`: of HTTP."""

    status: int

    def __init__(self, pool: str, status: int, said: str) -> None:
        super().__init__(pool, f"the server refused the call (status {status}): {said[:_SHOWN]!a}")
        self.status = status


class AnswerGarbled(RemoteError):
    """What came is not an answer of the API."""

    again = True

    def __init__(self, pool: str, what: str) -> None:
        super().__init__(pool, f"the answer is not one of this API: {what}; is `kind` right for this server?")


class StreamBroken(RemoteError):
    """The answer ended before it was complete. `text`: what had come."""

    again = True
    text: str

    def __init__(self, pool: str, why: str, text: str) -> None:
        super().__init__(pool, f"the answer broke off after {len(text)} characters: {why}")
        self.text = text


class CircuitOpen(RemoteError):
    """The pool failed several times in a row and is not asked for `seconds` more."""

    seconds: float

    def __init__(self, pool: str, failures: int, seconds: float) -> None:
        super().__init__(pool, f"{failures} calls failed in a row; it is tried again in {seconds:.1f} s")
        self.seconds = seconds


class EveryPoolFailed(RemoteError):
    """No pool that may serve the call served it. `causes`: the error of each, by the pool's name."""

    causes: dict[str, RemoteError]

    def __init__(self, causes: Mapping[str, RemoteError]) -> None:
        super().__init__("", "every pool that may serve this call failed: " + "; ".join(map(str, causes.values())))
        self.causes = dict(causes)


class ConstraintNotHeld(RemoteError, RequestError):
    """The server accepted a constraint and answered something else. `form`: json, regex, choice, lark or tools."""

    form: str

    def __init__(self, pool: str, form: str, answer: str) -> None:
        super().__init__(
            pool,
            f"a probe shows that constraints of form {form!r} are ignored: it asked for one fixed value and got "
            f"{answer[:60]!a}; pass guarantee='checked', which validates each answer and tries again",
        )
        self.form = form


class ScoresNotGiven(RemoteError, RequestError):
    """The server gives no log-probabilities of texts or tokens of ours."""

    def __init__(self, pool: str, kind: str, why: str) -> None:
        super().__init__(
            pool,
            f"a {kind} server scores no text that it is given: {why}; choice(), and steps of kind 'choice', have an "
            "option written under a constraint there",
        )


class OutputCut(RemoteError):
    """Constrained output ended at max_tokens before it was complete. `text`: what had come."""

    text: str

    def __init__(self, pool: str, max_tokens: int, text: str) -> None:
        super().__init__(
            pool, f"constrained output was cut at max_tokens={max_tokens}; raise it. The text: {text[-_SHOWN:]!a}"
        )
        self.text = text


class NotReported(RemoteError, AttributeError):
    """A count that the server did not give; `result.remote` has None in its place."""

    def __init__(self, name: str) -> None:
        super().__init__("", f"the server did not report {name}; result.remote tells what it did report")
        self.name = name
