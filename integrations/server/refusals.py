"""Errors of the server itself, one class for each cause. Errors of the engine and of policies are in their layers.

Knows HTTP's status codes and OpenAI's error fields. Does not know requests. `error_table.py` maps every class, these
and those of the other layers, to a response.
"""

from __future__ import annotations

from trimode.engine.errors import TrimodeError


class ServerError(TrimodeError):
    """A request that the server did not serve. `param`: the parameter concerned, as a path such as `tools[0].type`;
    None if there is none. `retry_after`: seconds after which it may be served; None if trying again does not help."""

    param: str | None
    retry_after: int | None

    def __init__(self, message: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.param, self.retry_after = param, retry_after


class BadParameter(ServerError, ValueError):
    """A parameter whose value cannot be used."""


class MissingParameter(BadParameter):
    """A required parameter that the body does not have."""


class UnknownParameter(BadParameter):
    """A parameter that this API does not have."""


class UnsupportedParameter(BadParameter):
    """A parameter that the API has and this server does not; its neutral values are accepted."""


class BadBody(ServerError, ValueError):
    """A body that is not the JSON document of a request."""


class WrongContentType(ServerError):
    """A body of another content type than JSON. It is refused, because web pages may send plain forms anywhere."""


class BodyTooLarge(ServerError):
    """A body beyond the limit of bytes."""


class BodyTooSlow(ServerError):
    """A body that did not arrive within its time."""


class NoKey(ServerError):
    """No API key, or an unknown one."""


class UnknownModel(ServerError, LookupError):
    """No model of that name is served."""


class UnknownPath(ServerError, LookupError):
    """No such path, or not with this method."""


class WrongMethod(ServerError):
    """The path does not take this method."""


class TooManyWaiting(ServerError):
    """More requests would wait than the server allows."""


class ShuttingDown(ServerError):
    """The server finishes what it has begun, and begins nothing new."""


class ReplicasLost(ServerError):
    """Every replica that took the request was lost before its answer was complete."""


class ReplayDiffers(ServerError):
    """A lost replica's output was decoded again, and does not begin as what its reader has already."""


class OutOfTime(ServerError):
    """The request's time ran out before its output was complete."""


class CallerLeft(ServerError):
    """The connection was closed by the client before its answer was complete; nobody reads this error."""
