"""Lookup speculation: drafts are copied from known text and verified in the pass that `ar` would run for its token.

Knows one request. Does not know the model. Known text: the request's lookup runs, its prompt and its output so far. A
round makes one pass, with a draft or without, so that no output takes more passes than in `ar`. Peers: prompt lookup
decoding of transformers, n-gram drafts of vLLM and llama.cpp.
"""

from __future__ import annotations

from ..decoding.lookup import TextIndex, copy_draft
from ..decoding.run import DecodeState
from ..decoding.segment import Passes
from ..decoding.speculation import verify
from ..options import LookupSpecOptions


def decode(run: DecodeState, options: LookupSpecOptions) -> Passes:
    index, indexed = TextIndex(run.known, options.min_match), 0
    while run.continues():
        forced = run.force()
        if forced is None:
            return
        new = [*run.output.tokens[indexed:], *forced]
        index.extend(new)
        indexed += len(new)
        remaining = run.output.remaining - len(forced)
        draft = copy_draft(index, run.gate, limit=min(options.block_length, remaining) - 1, section=run.section)
        if not draft.tokens:
            yield from run.next_token(forced)
            continue
        passes = (yield from run.prefill()) + run.prefilled
        reply = yield run.causal(draft.to_verify, constrained=run.gate.constrains)
        verify(run, draft, reply.trunk, forced, passes)
