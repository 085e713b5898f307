"""Consistency checks of one record: its counts, modes, digests and content have to agree.

Knows records. Does not know files. Counts are taken from the provenance codes, so that one false number is reported
once, at its own field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from trimode.engine.result import EXACT

from .decisions import asked_questions, is_decision
from .digests import sequence_digests
from .record import CallRecord, Counts
from .remote_consistency import remote_checks
from .round_record import RoundRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One failed check. `field` is a path into the record or the line, such as `rounds[3].accepted`.

    `line` is a line number, from 1, in `file`, which is one part of the trail.
    """

    line: int
    call: str
    field: str
    expected: str
    found: str
    message: str
    file: str = ""


def check_record(record: CallRecord, line: int, file: str = "") -> Iterator[Problem]:
    """Yields the failed checks of a record that stands in `line` of `file`."""
    for field, expected, found, message in _checks(record):
        if expected != found:
            yield Problem(
                line=line,
                call=record.call,
                field=field,
                expected=str(expected),
                found=str(found),
                message=message,
                file=file,
            )


Check = tuple[str, object, object, str]
"""(field, expected, found, what was compared)"""


def _checks(record: CallRecord) -> Iterator[Check]:
    for index, round_ in enumerate(record.rounds):
        yield from _round_checks(f"rounds[{index}]", f"round {index}", round_)
    yield from _mode_checks(record)
    yield from _section_checks(record)
    if record.counts is not None:
        yield from _count_checks(record, record.counts)
    elif record.rounds:
        yield "counts", "the counts of the call", None, "rounds without counts"
    last = record.rounds[-1].sha256 if record.rounds else None
    if record.remote is not None:
        yield from remote_checks(record, record.remote)
    elif last is not None or record.output_sha256 is not None:
        yield "output_sha256", last or record.prompt_sha256, record.output_sha256, "digest after the last round"
    if record.guarantee is not None:
        yield "guarantee", True, record.schema_sha256 is not None, f"a schema was enforced by {record.guarantee!r}"
    if record.kind == "choice":
        yield from _choice_checks(record)
    if record.remote is None and record.has_content:
        yield from _content_checks(record)


def _round_checks(at: str, name: str, round_: RoundRecord) -> Iterator[Check]:
    accepted = round_.origins.count("a")
    unknown = "".join(sorted(set(round_.origins) - set("abcfr")))
    yield f"{at}.origins", "", unknown, f"{name}: provenance codes other than a, b, c, f, r"
    yield f"{at}.accepted", accepted, round_.accepted, f"{name}: accepted drafts in origins {round_.origins!r}"
    drafted = accepted + len(round_.rejected)
    yield (
        f"{at}.drafted",
        drafted,
        round_.drafted,
        f"{name}: {accepted} accepted + {len(round_.rejected)} rejected drafts",
    )
    if round_.fills:
        yield f"{at}.fills", round_.drafted, sum(round_.fills), f"{name}: slots filled by its passes against drafted"
        yield f"{at}.forward_passes", len(round_.fills), round_.forward_passes, f"{name}: one pass a fill"
    if round_.tokens is not None:
        yield f"{at}.tokens", len(round_.origins), len(round_.tokens), f"{name}: number of tokens against origins"
    if round_.ends is not None:
        expected = (len(round_.origins), sorted(round_.ends), len(round_.text or ""))
        yield (
            f"{at}.ends",
            expected,
            (len(round_.ends), [*round_.ends], max(round_.ends, default=0)),
            f"{name}: ends of its text",
        )


def _mode_checks(record: CallRecord) -> Iterator[Check]:
    """Checks that each round's mode is the first one or that of the last switch, and drafts within its block length."""
    running = record.options
    for index, round_ in enumerate(record.rounds):
        at, name = f"rounds[{index}]", f"round {index}"
        if round_.switch:
            both = {str(running.get("mode")), round_.mode}
            yield f"{at}.switch", True, index > 0, f"{name}: a switch needs a round before it"
            if round_.section == record.rounds[index - 1].section:
                yield f"{at}.mode", both & EXACT, both, f"{name}: only exact modes switch to each other in a section"
            running = {"mode": round_.mode} if round_.options is None else round_.options
        else:
            yield f"{at}.options", None, round_.options, f"{name}: options without a switch of the mode"
        yield f"{at}.mode", running.get("mode"), round_.mode, f"{name}: the mode that runs"
        yield from _draft_checks(at, name, round_, running.get("block_length"))
    switches = [round_.options is not None for round_ in record.rounds if round_.switch]
    expected = len(switches) if any(switches) else 0
    yield "rounds", expected, sum(switches), "switches with recorded options: all, or none in older records"


def _section_checks(record: CallRecord) -> Iterator[Check]:
    """Checks that the parts of a turn are numbered in order, and that each begins with its mode and reason."""
    before: tuple[int, str] | None = None
    for index, round_ in enumerate(record.rounds):
        at, name, section = f"rounds[{index}].section", f"round {index}", round_.section
        yield (
            at,
            record.kind == "turn",
            section is not None,
            f"{name}: the rounds of turns, and no others, have sections",
        )
        if section is None or section == before:
            continue
        yield at, 0 if before is None else before[0] + 1, section[0], f"{name}: sections are numbered in order"
        yield f"rounds[{index}].switch", before is not None, bool(round_.switch), f"{name}: the reason for its mode"
        before = section


def _draft_checks(at: str, name: str, round_: RoundRecord, block: JsonValue) -> Iterator[Check]:
    # A draft that the schema rejects is replaced in its slot by another draft, so it takes no slot of its own.
    drafts = round_.drafted - sum(why == "schema" for _, why in round_.rejected)
    if round_.mode == "ar":
        yield f"{at}.drafted", 0, round_.drafted, f"{name}: ar drafts nothing"
    elif round_.mode in EXACT and isinstance(block, int):
        yield f"{at}.drafted", min(drafts, block - 1), drafts, f"{name}: draft slots in a block of {block}"


def _count_checks(record: CallRecord, counts: Counts) -> Iterator[Check]:
    origins = "".join(round_.origins for round_ in record.rounds)
    sums = {
        "output_tokens": len(origins),
        "accepted": origins.count("a"),
        "corrected": origins.count("c") + origins.count("r"),
        "forced": origins.count("f") + origins.count("b"),
        "repaired": origins.count("r"),
        "drafted": sum(round_.drafted for round_ in record.rounds),
        "forward_passes": sum(round_.forward_passes for round_ in record.rounds),
    }
    for name, expected in sums.items():
        yield f"counts.{name}", expected, getattr(counts, name), f"{name} of the call against its rounds"
    total = counts.accepted + counts.corrected + counts.forced
    yield "counts.output_tokens", total, counts.output_tokens, "accepted + corrected + forced against output tokens"
    within = min(counts.output_tokens, record.max_tokens)
    yield "counts.output_tokens", within, counts.output_tokens, "output tokens within max_tokens"


def _choice_checks(record: CallRecord) -> Iterator[Check]:
    """Checks that a choice is one round of the model's own tokens: those of the likeliest candidate."""
    if record.counts is not None:
        yield "rounds", ["choice"], [round_.mode for round_ in record.rounds], "a choice has one round"
        yield "counts.corrected", record.counts.output_tokens, record.counts.corrected, "a choice is not drafted"
    if record.logprobs and is_decision(record):
        yield from _decision_checks(record, record.logprobs)
    elif record.logprobs:
        best = record.logprobs.index(max(record.logprobs))
        yield "logprobs", record.options.get("candidates"), len(record.logprobs), "one score for each candidate"
        yield "text", _candidates(record)[best : best + 1], [record.text], "the likeliest candidate"


def _decision_checks(record: CallRecord, logprobs: Sequence[float]) -> Iterator[Check]:
    """Checks that each question of a decision has its scores, and that the text are the likeliest options."""
    questions, at, lines = asked_questions(record), 0, list[str]()
    yield "schema", record.options.get("questions"), len(questions), "the questions of the decision"
    for question in questions:
        scores = logprobs[at : at + len(question.options)]
        lines += question.options[scores.index(max(scores)) :][:1] if scores else []
        at += len(question.options)
    yield "logprobs", at, len(logprobs), "one score for each option of each question"
    yield "text", "\n".join(lines), record.text, "the likeliest option of each question"


def _candidates(record: CallRecord) -> list[JsonValue]:
    schema = record.schema if isinstance(record.schema, dict) else {}
    listed = schema.get("enum", schema.get("x-choice"))  # the second: how records store a `tm.Choice`
    return listed if isinstance(listed, list) else [schema.get("const")]


def _content_checks(record: CallRecord) -> Iterator[Check]:
    prompt, output = record.prompt_ids or (), record.token_ids or ()
    parts = [round_.tokens or () for round_ in record.rounds]
    joined = tuple(token for part in parts for token in part)
    yield "token_ids", joined, output, "tokens of the rounds, in order, against the output"
    digests = sequence_digests(prompt, parts)
    yield "prompt_sha256", digests[0], record.prompt_sha256, "digest of the prompt ids"
    for index, (digest, round_) in enumerate(zip(digests[1:], record.rounds, strict=True)):
        yield f"rounds[{index}].sha256", digest, round_.sha256, f"round {index}: digest of the tokens up to its end"
    if record.counts is not None:
        yield "counts.prompt_tokens", len(prompt), record.counts.prompt_tokens, "number of prompt ids"
