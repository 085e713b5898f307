"""Errors below the policy layer, one class per cause.

    TrimodeError
    ├── CheckpointError      a model directory that cannot be loaded: what was expected, what was found
    ├── CallCancelled        a call that was cancelled, or whose engine was closed
    ├── EngineStopped        something that should never be raised was, in the thread that serves all calls
    ├── NonFiniteLogits      a pass whose logits are NaN or infinite: which one, and where that began
    ├── WeightsReleased      full-precision matrices that an engine released after it quantised them
    └── RequestError         a call that cannot be served as asked: what was given, what is allowed
        ├── ModeUnavailable  a mode that the model's weights were not trained for
        ├── PromptTooLong    prompt and budget do not fit the context
        ├── KvMemoryExceeded prompt and budget do not fit the engine's memory for keys and values
        ├── DeviceMemoryExceeded  weights, keys and values, buffers and graphs do not fit the device
        ├── RowsDisagree     kernels that promise row invariance and do not keep it on this machine
        └── QueueFull        too many requests wait already

Knows numbers and names. Does not know requests. Every message says what was given, what is allowed and what to do;
`RequestError` is also a `ValueError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class TrimodeError(Exception):
    """Base of every error that trimode raises on purpose. All of them can be pickled and copied."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception.__reduce__ calls the class with the message alone, which most of these classes do not accept.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[TrimodeError], args: tuple[Any, ...], attributes: dict[str, Any]) -> TrimodeError:
    error = kind.__new__(kind, *args)
    error.args = args  # an OSError's __new__ leaves them to its __init__
    error.__dict__.update(attributes)
    return error


class CheckpointError(TrimodeError):
    """The directory is not a checkpoint that this engine can run."""


class RequestError(TrimodeError, ValueError):
    """The request cannot be served as asked."""


class ModeUnavailable(RequestError):
    """The model was not trained for the mode that the call or a policy's table chose; no other is taken instead."""

    mode: str
    architecture: str
    modes: tuple[str, ...]

    def __init__(self, mode: str, architecture: str, modes: Sequence[str]) -> None:
        super().__init__(
            f"mode={mode!r} was chosen, by the call or by a policy's table, but {architecture} weights decode in "
            f"{', '.join(modes)} only; pass mode={modes[0]!r}, or set it for the step or its kind in trimode.toml"
        )
        self.mode, self.architecture, self.modes = mode, architecture, tuple(modes)


class PromptTooLong(RequestError):
    """Prompt, budget and context length do not fit together.

    `at_least`: the prompt was not encoded, because its characters alone cannot be fewer than `prompt` tokens.
    """

    prompt: int
    budget: int
    context: int
    at_least: bool

    def __init__(self, prompt: int, budget: int, context: int, *, at_least: bool = False) -> None:
        super().__init__(
            f"prompt of {'at least ' if at_least else ''}{prompt} tokens + max_tokens={budget} exceeds the context of "
            f"{context} tokens; shorten the prompt or ask for at most {max(context - prompt, 0)} tokens"
        )
        self.prompt, self.budget, self.context, self.at_least = prompt, budget, context, at_least


class KvMemoryExceeded(RequestError):
    """The request alone needs more memory for keys and values than the engine has. Attributes are in bytes."""

    need: int
    limit: int

    def __init__(self, need: int, limit: int) -> None:
        super().__init__(
            f"prompt and max_tokens need {need:,} bytes of keys and values, the engine has {limit:,}; "
            "shorten the prompt, lower max_tokens, or load the engine with more kv_bytes"
        )
        self.need, self.limit = need, limit


class DeviceMemoryExceeded(RequestError):
    """The engine does not fit its device. Attributes are in bytes; `parts`: how much each part needs."""

    need: int
    have: int
    parts: dict[str, int]

    def __init__(self, device: str, have: int, parts: Mapping[str, int]) -> None:
        need = sum(parts.values())
        listed = ", ".join(f"{name} {size:,}" for name, size in parts.items())
        super().__init__(
            f"the engine needs {need:,} bytes on {device} ({listed}) and has {have:,}, {need - have:,} too few; lower "
            "kv_bytes, load with quantize='int8', or with graphs=False or fewer buckets"
        )
        self.need, self.have, self.parts = need, have, dict(parts)


class RowsDisagree(RequestError):
    """The kernels cannot keep the exact promise here. `found`: the difference found by the check at load."""

    kernels: str
    found: str

    def __init__(self, kernels: str, found: str) -> None:
        other = "" if kernels == "torch" else "kernels='torch' calls no kernels of ours; "
        super().__init__(
            f"{kernels} kernels give a row other bits in other company here: {found}. ar and the speculative modes "
            "could disagree, which exact modes must not. Kernels whose rows agree are allowed: "
            f"{other}kernels='torch-fast' loads without the promise, and records say so"
        )
        self.kernels, self.found = kernels, found


class QueueFull(RequestError):
    """More requests would wait than the engine allows."""

    waiting: int
    given: int
    limit: int

    def __init__(self, waiting: int, given: int, limit: int) -> None:
        super().__init__(
            f"{given} more would join {waiting} waiting requests, at most {limit} may wait; try again later, "
            "or load the engine with a larger queue"
        )
        self.waiting, self.given, self.limit = waiting, given, limit


class WeightsReleased(TrimodeError):
    """The model's full-precision matrices are not in memory: an engine quantised and released them, or packed them.

    `precision`: how they were quantised; empty if they were not.
    """

    def __init__(self, what: str, precision: str) -> None:
        super().__init__(
            f"{what} needs the whole weights, which this engine let go when it rounded them to {precision}; load the "
            "checkpoint again without quantize, or use its files"
            if precision
            else f"{what} needs the whole weights, of which this engine has the packed form alone; load the checkpoint "
            "with kernels='torch', or use its files"
        )
        self.precision = precision


class CallCancelled(TrimodeError):
    """The call was cancelled, or its engine was closed, before there was a result."""


class EngineStopped(TrimodeError):
    """The thread that serves all calls met an error that it does not know. Calls on their way and later ones get this.

    `cause`: what it was, in words; it is also the error's `__cause__`.
    """

    cause: str

    def __init__(self, cause: BaseException) -> None:
        self.cause = f"{type(cause).__name__}: {cause}"
        super().__init__(
            f"the engine stopped: {self.cause}. This is a bug of trimode: please report it with the traceback; load "
            "the engine again to go on"
        )


class NonFiniteLogits(TrimodeError):
    """A pass gave NaN or infinite logits. `number`: the pass since the engine was loaded; `where`: the part of the
    model where its numbers first stopped to be finite."""

    number: int
    where: str

    def __init__(self, number: int, where: str, dtype: str) -> None:
        super().__init__(
            f"pass {number} gave logits that are NaN or infinite, first in {where}: the weights are damaged, or their "
            f"numbers overflow {dtype.removeprefix('torch.')}; compare the checkpoint's files with their source, or "
            "load with another dtype"
        )
        self.number, self.where = number, where
