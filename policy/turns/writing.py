"""How one checkpoint writes the tool calls of a turn, and the matcher of such a turn.

Knows chat templates, control markers and grammars. Does not know plans or outputs.
"""

from __future__ import annotations

from trimode.engine.models.tokenizer import Tokenizer

from ..grammar import GrammarCompiler, Marker, TurnGrammar, TurnMatcher
from ..schema import BARE, MARKED, CallFormat, TurnTarget


def call_format(tokenizer: Tokenizer, target: TurnTarget) -> CallFormat:
    """Returns how calls are written in a turn: as the chat template writes them, else after a marker.

    For a template that knows kinds of messages a turn that has to be calls is a message of kind tool_call: one call.
    """
    if not tokenizer.has_template:
        return MARKED
    if tokenizer.template.names("kind"):
        return BARE if target.choice == "required" else MARKED
    frame = tokenizer.template.call_frame
    if frame is None or "{" in "".join(frame) or not frame[0].strip():
        return MARKED
    head, between, tail = frame
    return CallFormat(head.lstrip(), between, tail)


def writing_notes(tokenizer: Tokenizer, target: TurnTarget) -> tuple[str, ...]:
    """Returns a note where the model may know calls in another form than the turn's, because its template has one."""
    template = tokenizer.template
    own = tokenizer.has_template and (template.shows_calls or template.shows_tools) and not template.names("kind")
    if target.calls is None or target.format != MARKED or not own or template.call_frame is not None:
        return ()
    return (
        f"calls are opened by {MARKED.head.strip()!r}: the chat template writes them in a form that is not read here",
    )


def marker_of(tokenizer: Tokenizer, form: CallFormat) -> Marker:
    """Returns what opens a call in running text: the first control marker in the head, else all of the head."""
    control = [marker for marker in tokenizer.markers if marker in form.head]
    text = min(control, key=lambda marker: (form.head.find(marker), -len(marker)), default=form.head.strip())
    return Marker(text, form.head.partition(text)[2] if text else "", tokenizer.marker(text))


def turn_matcher(tokenizer: Tokenizer, grammars: GrammarCompiler, target: TurnTarget) -> TurnMatcher:
    """Returns a fresh matcher at the start of a turn. Raises SchemaRefused, with pointer, keyword and hint."""
    parts = [None if part is None else grammars.matcher(part) for part in (target.calls, target.answer)]
    calls, answer = parts
    marker = marker_of(tokenizer, target.format)
    return TurnMatcher(TurnGrammar(target, grammars.vocabulary, calls, answer, marker, tokenizer.encode_markup))
