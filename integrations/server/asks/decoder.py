"""Decodes one choice of an ask on the engine, at once or as a stream, and gives its events.

Knows the engine's calls and results. Does not know queues or HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from trimode.policy.calls import Call, Result, aattempted

from .ask import Ask
from .calls import CallMaker, infill_options
from .events import Event, Finished, Started, TextDelta
from .meters import Meters, Timer
from .seams import logprobs_of
from .turns import TurnView

Put = Callable[[Event], None]
"""Takes an event; never waits."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """One engine's choices. `meters` counts them."""

    maker: CallMaker
    meters: Meters

    async def decode(self, ask: Ask, call: Call, index: int, put: Put) -> None:
        """Puts the events of one choice. Cancelling it frees the call's pages within one pass."""
        engine = self.maker.engine
        if self.maker.needs_auto(call):
            await asyncio.to_thread(lambda: engine.auto)
        view = TurnView(index, call, ask)
        with self.maker.inside(ask, index), self.meters.timer(call) as timer:
            if ask.suffix is not None:
                result = await self._infilled(ask, call, view, put)
            elif ask.stream:
                result = await self._streamed(call, view, put, timer)
            else:
                result = await self._whole(call, view, put)
        self.meters.finished(call, result)
        logprobs = await logprobs_of(engine, ask, result)
        for event in view.end(result):
            put(replace(event, logprobs=logprobs) if isinstance(event, Finished) else event)

    async def _whole(self, call: Call, view: TurnView, put: Put) -> Result:
        """Decodes at once, which alone tries again under guarantee="checked"."""
        result = await aattempted(call, self.maker.engine.arun)
        put(_started(view, result.audit_id, call, result.stats.prompt_tokens))
        return result

    async def _infilled(self, ask: Ask, call: Call, view: TurnView, put: Put) -> Result:
        """Fills a gap. In a thread, because the engine has no infill for tasks: one block, which runs to its end."""
        settings, infill = call.plan.settings, self.maker.engine.infill
        result = await asyncio.to_thread(
            infill, ask.prompt or "", ask.suffix or "", **infill_options(ask), seed=settings.seed
        )
        put(_started(view, result.audit_id, call, result.stats.prompt_tokens))
        if ask.stream and result.text:
            put(TextDelta(choice=view.choice, text=result.text))
        return result

    async def _streamed(self, call: Call, view: TurnView, put: Put, timer: Timer) -> Result:
        engine, result = self.maker.engine, None
        recording = engine.recording(call, streamed=True)
        async with aclosing(engine.aevents(recording)) as events:
            async for event in events:
                if timer.pieces == 0:
                    put(
                        _started(
                            view,
                            recording.id,
                            recording.call,
                            recording.prompt_tokens or 0,
                        )
                    )
                timer.piece()
                for one in view.feed(event):
                    put(one)
                result = event.result
        assert result is not None
        return result


def _started(view: TurnView, record: str, call: Call, prompt: int) -> Started:
    return Started(choice=view.choice, record=record, mode=call.plan.mode, kind=call.kind, prompt=prompt)
