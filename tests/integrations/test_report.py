"""The page of an audit file: all of the text, coloured by origin, and nothing that a browser could run or fetch."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from trimode.engine.errors import RequestError
from trimode.integrations.cli import app as cli
from trimode.integrations.report import page
from trimode.integrations.report.page import render
from trimode.integrations.report.plot import COLUMNS, plots
from trimode.integrations.report.timeline import timeline
from trimode.policy.audit.origins import EMPTY, REASONS, plain, provenance_codes
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.round_record import RoundRecord
from trimode.policy.audit.trail import AuditFile

Recorded = Callable[..., CallRecord]
HOSTILE = "</script><img src=x onerror=alert(1)>\"'`${1}<!--"
VOID = {"meta", "rect"}


@dataclass
class Page(HTMLParser):
    """What a browser would make of the page, as far as the tests ask."""

    source: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    pieces: list[tuple[str, str]] = field(default_factory=list)
    words: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._in: list[str] = []
        self._tag = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append((tag, given))
        name = given.get("class", "")
        if tag == "div" and name.split()[:1] == ["text"]:
            self.texts.append("")
            self._in = ["text"]
        elif self._in and tag == "span":
            self.pieces.append((name.removeprefix("o "), ""))
        self._tag = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == "div":
            self._in = []
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag not in ("script", "style"):
            self.words += data
        if self._in:
            self.texts[-1] += data
            origin, text = self.pieces[-1]
            self.pieces[-1] = (origin, text + data)

    def tips(self, name: str) -> list[str]:
        return [given["data-tip"] for _, given in self.tags if given.get("class") == name and "data-tip" in given]


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Page]:
    def make(*calls: CallRecord, content: bool = True, chosen: str = ":") -> Page:
        path = tmp_path / "audit.jsonl"
        path.unlink(missing_ok=True)
        file = AuditFile(path, content=content)
        for call in calls:
            file.write(call)
        return Page(render(path, chosen)[0])

    return make


Made = Callable[..., Page]


def with_text(record: CallRecord, text: str) -> CallRecord:
    """The record of a call that wrote `text` in one round of one token, and drafted it in vain first."""
    first = replace(
        record.rounds[0], tokens=(1,), origins="c", drafted=1, accepted=0, rejected=((1, "target"),), text=text,
        ends=(len(text),), rejected_text=(text,),
    )  # fmt: skip
    policy = replace(record.policy, reason=text, name=text)
    return replace(record, rounds=(first,), text=text, step=text, notes=(text,), policy=policy, error=text)


def test_every_token_stands_once_in_order_under_its_origin(recorded: Recorded, made: Made) -> None:
    calls = [recorded(mode, schema=True) for mode in ("ar", "diffusion", "linear_spec")]
    found = made(*calls)
    assert found.texts == [call.text for call in calls]
    spelled = "".join(origin * len(text) for origin, text in found.pieces)
    assert spelled == "".join(provenance_codes(part) for call in calls for part in call.rounds)
    assert set(spelled) >= {"a", "c", "s", "f"}


def test_rejected_drafts_stand_on_the_page_with_their_reasons(recorded: Recorded, made: Made) -> None:
    record = recorded("linear_spec", schema=True)
    found = made(record)
    losing = [part for part in record.rounds if part.rejected]
    tips = found.tips("lost")
    assert len(tips) == len(losing)
    for part, tip in zip(losing, tips, strict=True):
        assert f"{len(part.rejected)} of {part.drafted} drafts rejected" in tip
        assert all(REASONS[reason] in tip for _, reason in part.rejected)
        assert sorted(text for text in part.rejected_text or ()) == sorted(_told(tip))
    spoken = [given["aria-label"] for tag, given in found.tags if tag == "button" and given.get("class") == "lost"]
    assert spoken == tips, "what is shown on hover is what is read out on focus"


def _told(tip: str) -> str:
    """The drafts that a tip shows; the vocabulary of the tests has a character a token."""
    return "".join(re.findall(r"“(.*)”", tip)).replace(" · ", "")


def test_hostile_text_stays_text(recorded: Recorded, made: Made) -> None:
    record = with_text(recorded("linear_spec"), HOSTILE)
    found = made(record)
    assert found.texts == [HOSTILE]
    assert found.words.count(HOSTILE) >= 4, "step, reason, note and output"
    assert not [tag for tag, _ in found.tags if tag == "img"]
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not [name for _, given in found.tags for name in given if name.startswith("on")]
    assert HOSTILE in found.tips("lost")[0]


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_any_text_reads_back(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "audit.jsonl"
    AuditFile(path, content=True).write(with_text(recorded("linear_spec"), text))
    found = Page(render(path)[0])
    assert found.texts == [plain(text)]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", found.source), "nothing turns the text around"


def test_page_needs_no_network_and_runs_only_its_own_script(recorded: Recorded, made: Made) -> None:
    found = made(recorded("linear_spec"))
    assert not [given for _, given in found.tags if "src" in given]
    assert {given["href"][0] for _, given in found.tags if "href" in given} == {"#"}
    assert not re.search(
        r"url\(|@import|//[a-z]", (style := re.findall("<style>(.*?)</style>", found.source, re.DOTALL))[0]
    )
    assert len(style) == 1
    (script,) = re.findall(r"<script>(.*?)</script>", found.source, re.DOTALL)
    assert not re.search(r"innerHTML|fetch|XMLHttp|import\(", script)
    (policy,) = [given["content"] for _, given in found.tags if given.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in policy


def test_page_is_well_formed_for_readers(recorded: Recorded, made: Made) -> None:
    found = made(recorded("linear_spec"), recorded("ar"))
    ids = [given["id"] for _, given in found.tags if "id" in given]
    assert len(set(ids)) == len(ids)
    assert {given["aria-labelledby"] for _, given in found.tags if "aria-labelledby" in given} <= set(ids)
    assert all(given.get("aria-label") for tag, given in found.tags if tag == "svg")
    assert all("tabindex" not in given or given["tabindex"] == "0" for _, given in found.tags)
    assert [tag for tag, _ in found.tags].count("h1") == 1


def test_without_content_the_page_shows_letters_and_says_why(recorded: Recorded, made: Made) -> None:
    record = recorded("linear_spec", schema=True)
    found = made(record, content=False)
    assert found.texts == ["".join(provenance_codes(part) for part in record.rounds)]
    assert "hold no text" in found.words
    assert "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT" in found.words
    assert record.text is not None
    assert record.text not in found.source
    lost = sum(len(part.rejected) for part in record.rounds)
    assert sum(int(given["data-n"]) for tag, given in found.tags if tag == "button" and "data-n" in given) == lost


def test_every_origin_of_records_has_a_name_and_strangers_are_not_hidden(recorded: Recorded, made: Made) -> None:
    record = recorded("linear_spec")
    first = replace(record.rounds[0], origins="bfrz", text="1234", ends=(1, 2, 3, 4), rejected=((1, "budget"),))
    found = made(replace(record, rounds=(first,)))
    assert found.pieces == [("b", "1"), ("f", "2"), ("r", "3"), ("?", "4")]
    assert "no room to end the text" in found.tips("lost")[0]
    assert "provenance codes other than" in found.words


def test_text_that_was_kept_without_tokens_is_shown(recorded: Recorded, made: Made) -> None:
    record = recorded("linear_spec")
    found = made(replace(record.redacted(), text="what a rule of the caller left"))
    assert "what a rule of the caller left" in found.words
    assert set(found.texts[0]) <= set("acsfr")


def test_verdict_stands_at_the_top(recorded: Recorded, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path, content=True)
    for _ in range(2):
        file.write(recorded("ar"))
    assert "✓ Verified 2 calls, every one adds up; chain unbroken" in " ".join(Page(render(path)[0]).words.split())
    path.write_bytes(path.read_bytes().replace(b'"output_tokens":30', b'"output_tokens":29', 1) + b'{"torn')
    found = " ".join(Page(render(path)[0]).words.split())
    assert "✗ Does not verify" in found
    assert "counts.output_tokens" in found
    assert "the line cannot be read" in found
    rows = [given for _, given in Page(render(path)[0]).tags if given.get("class") == "call"]
    assert [given["data-verdict"] for given in rows] == ["does not verify"] * 2, "the changed call, and the next one"


def test_calls_of_every_outcome_have_a_row(recorded: Recorded, made: Made) -> None:
    calls = [
        replace(recorded("linear_spec", schema=True), schema_valid=False),
        recorded("ar", failed=RuntimeError("the disk is full")),
        replace(recorded("ar"), finish_reason="length", step="cut"),
    ]
    found = made(*calls)
    words = " ".join(found.words.split())
    assert "schema INVALID" in words
    assert "This call has no output." in words
    assert "RuntimeError: the disk is full" in words
    assert "cut by max_tokens" in words


@pytest.mark.parametrize("verdict", ["checked", "not promised", "unknown"])
def test_a_call_says_whether_rows_agree(recorded: Recorded, made: Made, verdict: str) -> None:
    record = recorded("ar")
    found = made(replace(record, runtime=replace(record.runtime, exactness=verdict)))
    assert re.search(rf"rows agree\s*{verdict}", found.words)


def test_bars_stay_on_the_timeline_and_pauses_split_it(recorded: Recorded, made: Made) -> None:
    hour = 3600 * 10**9
    call = recorded("linear_spec")
    later = [replace(call, start_ns=call.start_ns + by, end_ns=call.end_ns + by) for by in (0, 10**9, hour)]
    found = made(*later)
    assert [given.get("class") for _, given in found.tags].count("run") == 2
    bars = [given["style"] for _, given in found.tags if given.get("class", "").startswith("bar ")]
    places = [tuple(map(float, re.findall(r"[\d.]+", style))) for style in bars]
    assert all(left >= 0 and left + width <= 100.01 for left, width in places)


def test_what_does_not_fit_is_said(recorded: Recorded, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    call = recorded("ar")
    assert call.counts is not None
    monkeypatch.setattr(page, "CALLS", 3)
    monkeypatch.setattr(page, "TOKENS", 2 * call.counts.output_tokens)
    found = made(*[call] * 5)
    assert len(found.texts) == 2
    assert "shows the first 3 of 5 calls" in found.words
    assert "From call 3 on, rows do not unfold" in found.words
    assert "--calls 3:3" in found.words
    again = made(*[call] * 5, chosen="3:4")
    assert [given["id"] for _, given in again.tags if given.get("class") == "call"] == ["call-3", "call-4"]
    assert "2 of the 5 calls of the file" in again.words


@pytest.mark.parametrize("chosen", ["", "3", "a:b", "-1:2", "1:2:3"])
def test_bad_ranges_are_refused(made: Made, recorded: Recorded, chosen: str) -> None:
    with pytest.raises(RequestError, match="expected FIRST:LAST"):
        made(recorded("ar"), chosen=chosen)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=400))
def test_plots_keep_all_drafts_and_stay_in_their_frame(counts: list[tuple[int, int]]) -> None:
    rounds = [
        RoundRecord(mode="linear_spec", origins="a" * kept, drafted=kept + lost, accepted=kept,
                    rejected=((None, "target"),) * lost, forward_passes=2, fills=(), sha256="")
        for kept, lost in counts
    ]  # fmt: skip
    found = list(plots(rounds))
    assert bool(found) == any(kept + lost for kept, lost in counts)
    for plot in found:
        assert len(plot.columns) <= COLUMNS
        assert all(0 <= column.kept + column.rejected <= 56.001 for column in plot.columns)
        told = [tuple(map(int, re.findall(r"(\d+) (?:accepted|rejected)", column.tip))) for column in plot.columns]
        assert sum(kept for kept, _ in told) == sum(kept for kept, _ in counts)
        assert sum(lost for _, lost in told) == sum(lost for _, lost in counts)


def test_command_writes_the_page(recorded: Recorded, tmp_path: Path) -> None:
    AuditFile(tmp_path / "audit.jsonl", content=True).write(recorded("diffusion"))
    out = tmp_path / "page.html"
    done = CliRunner().invoke(cli.app, ["audit", "report", str(tmp_path / "audit.jsonl"), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "1 of 1 calls, 1 of them with their tokens" in done.output.replace("\n", " ")
    assert EMPTY in out.read_text(encoding="utf-8")


def test_empty_file_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").write_text("")
    assert "There is no call to show" in Page(render(tmp_path / "audit.jsonl")[0]).words


def test_a_folded_row_shows_the_beginning_of_its_text(recorded: Recorded, made: Made) -> None:
    call = recorded("ar")
    long = "one\n two\t" + "x" * 400
    found = made(with_text(call, long), call, with_text(call, HOSTILE))
    first = re.findall('<span class="begin">(.*?)</span>', found.source)
    assert len(first) == 3
    assert first[0] == "one two " + "x" * 151 + "…"
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;")[:9] == first[2][:9]
    assert "img" not in [tag for tag, _ in found.tags]
    assert '"begin"' not in made(call, content=False).source, "no text is kept, and none is made up"


def test_rows_say_what_the_filters_ask(recorded: Recorded, made: Made) -> None:
    forced, plain_call = recorded("linear_spec", schema=True), recorded("ar")
    first, second, *others = plain_call.rounds
    switched = replace(plain_call, step="turns", rounds=(first, replace(second, switch="it pays"), *others))
    found = made(forced, plain_call, switched)
    rows = [given for _, given in found.tags if given.get("class") == "call"]
    assert [row["data-mode"] for row in rows] == ["linear_spec", "ar", "ar"]
    assert ["data-forced" in row for row in rows] == [True, False, False]
    assert ["data-switched" in row for row in rows] == [False, False, True]
    values = [given["value"] for tag, given in found.tags if tag == "option"]
    assert {row["data-verdict"] for row in rows} | {"turns"} <= {value.removeprefix("=") for value in values}
    assert values.count("") == 3, "one `all` for step, mode and verdict"


def test_one_slow_call_does_not_flatten_the_others() -> None:
    second = 10**9
    starts = [0, *(600 * second + at * second for at in range(9))]
    spans = [(0, 600 * second), *((start, start + second) for start in starts[1:])]
    found = timeline(spans)
    widths = [found.place(end) - found.place(start) for start, end in spans]
    assert widths[0] == pytest.approx(100 * 8 / 17)
    assert widths[1:] == pytest.approx([100 / 17] * 9)
    ((at, hidden),) = found.breaks
    assert at == pytest.approx(widths[0] / 2)
    assert hidden == 592 * second
    assert found.left_out == 592 * second
    assert (found.place(-1), found.place(10**15)) == (0, 100)


def test_ordinary_calls_are_drawn_to_scale() -> None:
    found = timeline([(0, 12), (12, 42), (48, 60)])
    assert found.breaks == ()
    places = [found.place(at) for at in (0, 6, 12, 42, 48, 60)]
    assert places == pytest.approx([0, 10, 20, 70, 80, 100])
    minute = [(at * 10, at * 10 + 1) for at in range(60)]
    assert timeline([*minute, (600, 640)]).breaks == (), "40 of 640 flatten nothing"
    assert len(timeline([*minute, (600, 700)]).breaks) == 1
    alone = timeline([(7, 7)])
    assert (alone.place(7), alone.breaks) == (0, ())


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)), min_size=1, max_size=20))
def test_the_timeline_keeps_the_order_of_events(spans: list[tuple[int, int]]) -> None:
    ordered = [(min(span), max(span)) for span in spans]
    found = timeline(ordered)
    moments = sorted(moment for span in ordered for moment in span)
    places = [found.place(moment) for moment in moments]
    assert places == sorted(places)
    assert all(0 <= place <= 100.0001 for place in places)
    assert all(hidden > 0 for _, hidden in found.breaks)


def test_a_shortened_bar_says_so(recorded: Recorded, made: Made) -> None:
    call = recorded("ar")
    took = call.end_ns - call.start_ns
    assert call.counts is not None
    slow = replace(call, end_ns=call.start_ns + 50 * took, counts=replace(call.counts, seconds=50 * took / 1e9))
    starts = [slow.end_ns + at * took for at in range(3)]
    found = made(slow, *(replace(call, start_ns=start, end_ns=start + took) for start in starts))
    cut = [given for _, given in found.tags if given.get("class", "").endswith(" cut")]
    assert [given["data-tip"].rsplit(" · ", 1)[1] for given in cut] == ["drawn shorter than it was"]
    assert [given["data-tip"] for _, given in found.tags if given.get("class") == "break"]
    assert "are left out" in found.words
