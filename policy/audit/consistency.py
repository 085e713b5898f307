"""What has to hold inside one record for the call to add up.

Knows records. Does not know files. Counts are taken from the origins, letter by letter, so that one false number is
reported once, where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from trimode.engine.result import EXACT

from .digests import sequence_digests
from .record import CallRecord, Counts
from .round_record import RoundRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that does not hold. `field` is a path into the record or the line, such as `rounds[3].accepted`.

    `line` counts in `file`, a part of the trail.
    """

    line: int
    call: str
    field: str
    expected: str
    found: str
    message: str
    file: str = ""


def check_record(record: CallRecord, line: int, file: str = "") -> Iterator[Problem]:
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
    for index, made in enumerate(record.rounds):
        yield from _round_checks(f"rounds[{index}]", f"round {index}", made)
    yield from _mode_checks(record)
    if record.counts is not None:
        yield from _count_checks(record, record.counts)
    elif record.rounds:
        yield "counts", "the counts of the call", None, "rounds without counts"
    last = record.rounds[-1].sha256 if record.rounds else None
    if last is not None or record.output_sha256 is not None:
        yield "output_sha256", last or record.prompt_sha256, record.output_sha256, "digest after the last round"
    if record.guarantee is not None:
        yield "guarantee", True, record.schema_sha256 is not None, f"a schema was held by {record.guarantee!r}"
    if record.kind == "choice":
        yield from _choice_checks(record)
    if record.has_content:
        yield from _content_checks(record)


def _round_checks(at: str, name: str, made: RoundRecord) -> Iterator[Check]:
    accepted = made.origins.count("a")
    strangers = "".join(sorted(set(made.origins) - set("abcfr")))
    yield f"{at}.origins", "", strangers, f"{name}: letters other than a, b, c, f, r"
    yield f"{at}.accepted", accepted, made.accepted, f"{name}: accepted drafts in origins {made.origins!r}"
    drafted = accepted + len(made.rejected)
    yield f"{at}.drafted", drafted, made.drafted, f"{name}: {accepted} accepted + {len(made.rejected)} rejected drafts"
    if made.fills:
        yield f"{at}.fills", made.drafted, sum(made.fills), f"{name}: slots filled by its passes against drafted"
        yield f"{at}.forward_passes", len(made.fills), made.forward_passes, f"{name}: one pass a fill"
    if made.tokens is not None:
        yield f"{at}.tokens", len(made.origins), len(made.tokens), f"{name}: number of tokens against origins"
    if made.ends is not None:
        marks = (len(made.origins), sorted(made.ends), len(made.text or ""))
        yield (
            f"{at}.ends",
            marks,
            (len(made.ends), [*made.ends], max(made.ends, default=0)),
            f"{name}: ends of its text",
        )


def _mode_checks(record: CallRecord) -> Iterator[Check]:
    """A mode runs until a switch says that another one took over, with what options, and drafts no more than it may."""
    running = record.options
    for index, made in enumerate(record.rounds):
        at, name = f"rounds[{index}]", f"round {index}"
        if made.switch:
            both = {str(running.get("mode")), made.mode}
            yield f"{at}.switch", True, index > 0, f"{name}: a switch needs a round before it"
            yield f"{at}.mode", both & EXACT, both, f"{name}: exact modes alone take over from each other"
            running = {"mode": made.mode} if made.options is None else made.options
        else:
            yield f"{at}.options", None, made.options, f"{name}: options where no mode took over"
        yield f"{at}.mode", running.get("mode"), made.mode, f"{name}: the mode that runs"
        yield from _draft_checks(at, name, made, running.get("block_length"))
    switches = [made.options is not None for made in record.rounds if made.switch]
    told = len(switches) if any(switches) else 0
    yield "rounds", told, sum(switches), "switches that tell their options: all, or none in older records"


def _draft_checks(at: str, name: str, made: RoundRecord, block: JsonValue) -> Iterator[Check]:
    drafts = made.drafted - sum(why == "schema" for _, why in made.rejected)  # a refused one gave its place to another
    if made.mode == "ar":
        yield f"{at}.drafted", 0, made.drafted, f"{name}: ar drafts nothing"
    elif made.mode in EXACT and isinstance(block, int):
        yield f"{at}.drafted", min(drafts, block - 1), drafts, f"{name}: places for drafts in a block of {block}"


def _count_checks(record: CallRecord, counts: Counts) -> Iterator[Check]:
    origins = "".join(made.origins for made in record.rounds)
    sums = {
        "output_tokens": len(origins),
        "accepted": origins.count("a"),
        "corrected": origins.count("c") + origins.count("r"),
        "forced": origins.count("f") + origins.count("b"),
        "repaired": origins.count("r"),
        "drafted": sum(made.drafted for made in record.rounds),
        "forward_passes": sum(made.forward_passes for made in record.rounds),
    }
    for name, expected in sums.items():
        yield f"counts.{name}", expected, getattr(counts, name), f"{name} of the call against its rounds"
    total = counts.accepted + counts.corrected + counts.forced
    yield "counts.output_tokens", total, counts.output_tokens, "accepted + corrected + forced against output tokens"
    within = min(counts.output_tokens, record.max_tokens)
    yield "counts.output_tokens", within, counts.output_tokens, "output tokens within max_tokens"


def _choice_checks(record: CallRecord) -> Iterator[Check]:
    """A choice is one round of the model's own tokens: those of the likeliest candidate."""
    if record.counts is not None:
        yield "rounds", ["choice"], [made.mode for made in record.rounds], "one round, the choice"
        yield "counts.corrected", record.counts.output_tokens, record.counts.corrected, "a choice is not drafted"
    if record.logprobs:
        best = record.logprobs.index(max(record.logprobs))
        yield "logprobs", record.options.get("candidates"), len(record.logprobs), "one score a candidate"
        yield "text", _candidates(record)[best : best + 1], [record.text], "the likeliest candidate"


def _candidates(record: CallRecord) -> list[JsonValue]:
    schema = record.schema if isinstance(record.schema, dict) else {}
    listed = schema.get("enum")
    return listed if isinstance(listed, list) else [schema.get("const")]


def _content_checks(record: CallRecord) -> Iterator[Check]:
    prompt, output = record.prompt_ids or (), record.token_ids or ()
    parts = [made.tokens or () for made in record.rounds]
    joined = tuple(token for part in parts for token in part)
    yield "token_ids", joined, output, "tokens of the rounds, in order, against the output"
    digests = sequence_digests(prompt, parts)
    yield "prompt_sha256", digests[0], record.prompt_sha256, "digest of the prompt ids"
    for index, (digest, made) in enumerate(zip(digests[1:], record.rounds, strict=True)):
        yield f"rounds[{index}].sha256", digest, made.sha256, f"round {index}: digest of the tokens up to its end"
    if record.counts is not None:
        yield "counts.prompt_tokens", len(prompt), record.counts.prompt_tokens, "number of prompt ids"
