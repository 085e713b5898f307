"""Whether a pool can serve a call as it was asked, before anything is sent.

Knows requests and capabilities. Does not know HTTP. What a server would silently ignore is refused here, by name, with
what to do; what changes nothing that was asked for is a note.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from trimode.engine.errors import ModeUnavailable, RequestError
from trimode.policy.errors import UnsupportedKeyword, UnsupportedSyntax
from trimode.policy.remote import Capabilities, Constraint, RemoteRequest, ScoresNotGiven, without


@dataclass(frozen=True, slots=True)
class PoolAdmission:
    """What a pool makes of a request. `constraint`: as its dialect keeps it. `enforced`: whether that is all of it."""

    constraint: Constraint | None
    enforced: bool
    notes: tuple[str, ...]


def admitted(request: RemoteRequest, can: Capabilities) -> PoolAdmission:
    """Returns how `can`'s pool serves the request. Raises RequestError or SchemaRefused."""
    if request.scoring:
        _check_scoring(request, can)
        return PoolAdmission(None, enforced=True, notes=())
    _check_mode(request, can)
    _check_parameters(request, can)
    _check_prompt(request, can)
    constraint, dropped = _constraint(request, can)
    notes = [*_notes(request, can), *dropped]
    enforced = not dropped and not (request.turn is not None and request.tools)
    return PoolAdmission(constraint, enforced, tuple(notes))


def _check_scoring(request: RemoteRequest, can: Capabilities) -> None:
    if not can.scores:
        diffuses = can.modes == ("diffusion",)
        why = "its diffusion has none" if diffuses else "its API has log-probabilities of tokens that it writes alone"
        raise ScoresNotGiven(can.pool, can.kind, why)
    _check_prompt(request, can)


def _check_mode(request: RemoteRequest, can: Capabilities) -> None:
    if request.mode not in can.modes:
        raise ModeUnavailable(request.mode, f"pool {can.pool!r} of a {can.kind} server, whose", can.modes)
    if "exact" not in request.said or not request.exact or request.mode == "ar":
        return
    greedy = can.exactness == "greedy" and request.sampling.temperature == 0
    if can.exactness != "same tokens" and not greedy:
        where = "at a temperature above 0" if can.exactness == "greedy" else "with what it promises"
        raise RequestError(
            f"exact=True: a {can.kind} server cannot keep that in {request.mode} {where}; leave exact= out, or pass "
            "mode='ar'"
        )


def _check_parameters(request: RemoteRequest, can: Capabilities) -> None:
    sampling = request.sampling
    wanted = {
        "top_k": sampling.top_k > 0,
        "logit_bias": bool(sampling.logit_bias),
        "continue_final_message": request.continued,
        "max_thinking_tokens": request.thinking is not None,
    }
    for name, asked in wanted.items():
        if asked and name not in can.parameters:
            raise RequestError(f"{name}: the API of a {can.kind} server has no such parameter; leave it out")
    if can.seeds != "none" and sampling.seed > can.largest_seed:
        raise RequestError(f"seed={sampling.seed}: a {can.kind} server takes seeds up to {can.largest_seed}")


def _check_prompt(request: RemoteRequest, can: Capabilities) -> None:
    if request.prompt_ids is not None and not can.prompt_ids:
        raise RequestError(f"prompt_ids: a {can.kind} server takes no token ids here; pass prompt= or messages=")
    if request.constraint is not None and not request.messages and not can.raw_constraints:
        raise RequestError(f"a schema with a raw prompt: a {can.kind} server constrains chats alone; pass messages=")
    if request.turn is not None and request.tools and request.turn.choice != "none" and not can.turns:
        raise RequestError(
            f"turns with tools: a {can.kind} server is not known to parse calls that a model makes freely; use steps "
            "of kind tool_call, or tool_choice='none'"
        )


def _constraint(request: RemoteRequest, can: Capabilities) -> tuple[Constraint | None, list[str]]:
    """Returns the constraint in the pool's dialect, and notes on what it leaves out. Raises SchemaRefused."""
    asked = request.constraint
    if asked is None:
        return None, []
    form = asked.form if asked.form in can.dialect.forms else _instead(asked, can)
    if form is None:
        if asked.checked:
            return None, [f"the {asked.form} is not enforced by a {can.kind} server: it is checked in the output alone"]
        raise UnsupportedSyntax(
            asked.form, asked.form, f"a {can.kind} server takes {', '.join(sorted(can.dialect.forms)) or 'none'}"
        )
    if form != "json" or asked.form != "json":
        return asked, []
    return _json(asked, can)


def _instead(asked: Constraint, can: Capabilities) -> str | None:
    """Returns the form that can stand for one that the dialect lacks: a choice is also a JSON enum."""
    return "json" if asked.form == "choice" and "json" in can.dialect.forms else None


def _json(asked: Constraint, can: Capabilities) -> tuple[Constraint, list[str]]:
    document = asked.compiled if can.dialect.keywords is None else asked.given
    ignored = can.dialect.ignored(document)
    if not ignored:
        return replace(asked, given=document), []
    if not asked.checked:
        pointer, keyword, why = ignored[0]
        raise UnsupportedKeyword(pointer, keyword, f"{why}; put the rule another way")
    notes = [f"{key!r} at {place} is checked in the finished output alone: {why}" for place, key, why in ignored]
    kept: Any = without(document, {place for place, _, _ in ignored})
    left = can.dialect.ignored(kept)
    return replace(asked, given=kept), [*notes, *(f"{key!r} at {place}: {why}" for place, key, why in left)]


def _notes(request: RemoteRequest, can: Capabilities) -> Iterator[str]:
    if "seed" in request.said and can.seeds == "none":
        yield f"seed={request.sampling.seed} was not sent: the API of a {can.kind} server has no seeds"
    if request.tools and not request.messages:
        yield "tools were not shown: only messages= have a template that shows them"
    for name in sorted(set(request.knobs) - can.knobs):
        yield f"{name}={request.knobs[name]!r} was not sent: the way to draft is the server's own there"
