"""What endpoints read, from the settings to the runner: a front, which hands asks on, and one engine behind it.

Knows the engine, policies, keys and the parts of the server. Does not know HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

from trimode.policy.calls import Engine, Scope
from trimode.policy.decisions import Calibration
from trimode.policy.selection import PolicyProtocol
from trimode.policy.steps import session

from .asks.ask import Ask
from .asks.calls import CallMaker
from .asks.decoder import Decoder
from .asks.events import Event
from .asks.fair_queue import FairQueue
from .asks.meters import Meters
from .asks.runner import Runner
from .keys import Keys, read_keys
from .refusals import BadParameter
from .settings import ServerSettings, SettingsRefused


class AskRunner(Protocol):
    """Runs asks, in this process or elsewhere."""

    def events(self, asks: Sequence[Ask]) -> AsyncGenerator[Event]:
        """Yields the events of all choices, numbered through all asks. Closing it cancels what runs."""
        ...


class RequestMeter(Protocol):
    """Counts requests."""

    def request(self, path: str, status: int) -> None:
        """Counts a request that was answered."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What endpoints that hand asks on read. `names`: of the model in the API, the first one is told. `fingerprint`: of
    weights and kernels."""

    settings: ServerSettings
    keys: Keys
    runner: AskRunner
    meters: RequestMeter
    names: tuple[str, ...]
    fingerprint: str

    @property
    def name(self) -> str:
        return self.names[0]

    def check_choices(self, choices: int) -> None:
        """Raises BadParameter for more outputs than one request may ask for."""
        if choices > (most := self.settings.max_choices):
            raise BadParameter(f"n: {choices} outputs are asked for, at most {most} are served at once", "n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Front):
    """One engine in this process."""

    engine: Engine
    runner: Runner
    meters: Meters
    calibration: Calibration


def service_of(engine: Engine, settings: ServerSettings, until_end: ExitStack) -> Service:
    """Returns the service. Its policies learn, and its audit file is open, until `until_end` closes.

    Raises KeyFileRefused, PolicyError, AuditFileRefused, or SettingsRefused and RequestError for a calibration.
    """
    keys = read_keys(settings.api_key_file)
    share = 2 if keys.digests else 1
    queue = FairQueue(
        settings.slots,
        settings.queue,
        settings.tenant_slots or max(settings.slots // share, 1),
        settings.tenant_queue or max(settings.queue // share, 1),
    )
    scope, own = _opened(engine, settings, until_end)
    named = {name: _policies(engine, path, until_end) for name, path in settings.policies.items()}
    meters = Meters(engine, queue)
    maker = CallMaker(engine, {"table": (), **named, "default": own}, scope, settings.tenant_cache)
    runtime = engine.runtime
    return Service(
        engine=engine,
        settings=settings,
        keys=keys,
        runner=Runner(Decoder(maker, meters), queue, settings.timeout),
        meters=meters,
        names=(settings.name,) if settings.name else (runtime.model, *_aliases(settings)),
        fingerprint=f"trimode-{runtime.model_sha256[:12]}-{runtime.kernels}",
        calibration=_calibration(settings),
    )


def _calibration(settings: ServerSettings) -> Calibration:
    if unknown := sorted(set(settings.calibration) - {field.name for field in fields(Calibration)}):
        raise SettingsRefused(f"calibration: {unknown[0]!r} is none of temperature, slope and offset")
    return Calibration(**settings.calibration)


def _opened(engine: Engine, settings: ServerSettings, until_end: ExitStack) -> tuple[Scope, tuple[PolicyProtocol, ...]]:
    """Returns the scope of all calls, and the server's own policies."""
    trace = None if settings.audit is None else f"file:{settings.audit}"
    opened = until_end.enter_context(
        session(engine, policy=settings.policy, trace=trace, content=settings.content if trace else None)
    )
    return replace(opened.scope, session=None), opened.policies


def _policies(engine: Engine, path: str, until_end: ExitStack) -> tuple[PolicyProtocol, ...]:
    return until_end.enter_context(session(engine, policy=path)).policies


def _aliases(settings: ServerSettings) -> tuple[str, ...]:
    """Returns the name by which the model was loaded, where that is no path."""
    given = settings.model
    return (given,) if given and not Path(given).exists() else ()
