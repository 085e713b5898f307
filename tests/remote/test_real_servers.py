"""Real servers: llama.cpp's and vLLM's over the bundled checkpoint, exported. `make test-remote` runs this.

What they write is not compared with anything of ours: that schemas hold, calls parse, streams are whole, failures are
typed and records verify is.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from made_calls import chat_line, written
from servers import ROOT, Running, llamacpp, python_of, vllm
from typer.testing import CliRunner

import trimode as tm
from trimode.integrations.cli.app import app as command_line
from trimode.policy.audit import read_audit, records, verify
from trimode.policy.remote import ConstraintNotHeld, Pool, Retry, StreamBroken

pytestmark = [pytest.mark.remote, pytest.mark.timeout(1800)]  # vLLM takes minutes to start where others work too
ASK: Final[list[dict[str, Any]]] = [{"role": "user", "content": "There are 5 boxes with 20 apples. How many apples?"}]
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "name": {"enum": ["apples", "boxes"]},
        "count": {"type": "integer", "minimum": 3, "maximum": 120},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2},
    },
    "required": ["name", "count", "tags"],
    "additionalProperties": False,
}
TOOL: Final[dict[str, Any]] = {
    "name": "look_up",
    "description": "Looks up a number.",
    "parameters": {
        "type": "object",
        "properties": {"key": {"enum": ["apples", "boxes"]}},
        "required": ["key"],
        "additionalProperties": False,
    },
}
DRAFTING: Final = (
    "--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}',
    "--per-request-spec-decode-metrics", "detailed",
)  # fmt: skip
"""How vLLM is launched to draft, and to tell how it went."""


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _exported(tmp_path_factory.mktemp("gguf") / "reference.gguf", "gguf")


@pytest.fixture(scope="module")
def ministral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _exported(tmp_path_factory.mktemp("vllm") / "model", "ministral3")


def _exported(path: Path, kind: str) -> Path:
    command = [sys.executable, "-m", "trimode", "export", "--format", kind, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run(command, check=True, capture_output=True, timeout=900, env=environment)
    return path


@pytest.fixture(scope="module", params=["llamacpp", "vllm"])
def server(request: pytest.FixtureRequest, gguf: Path, ministral: Path) -> Generator[tuple[str, Running]]:
    if request.param == "llamacpp":
        with llamacpp(gguf) as running:
            yield request.param, running
    else:
        with vllm(ministral, *DRAFTING) as running:
            yield request.param, running


@pytest.fixture
def engine(server: tuple[str, Running]) -> Generator[tm.Engine]:
    kind, running = server
    method = "ngram" if kind == "vllm" else ""
    with tm.Engine.remote(running.url, kind, method=method) as found:
        yield found


def test_the_server_says_what_it_is(engine: tm.Engine, server: tuple[str, Running]) -> None:
    (can,) = engine.capabilities.values()
    assert can.kind == server[0]
    assert can.version
    assert can.context
    assert can.model in can.models
    assert not can.contract_only
    assert can.modes == (("lookup_spec",) if server[0] == "vllm" else ("ar",))


def test_a_schema_holds(engine: tm.Engine) -> None:
    for seed in range(4):
        result = engine.generate(messages=ASK, schema=SCHEMA, max_tokens=400, seed=seed, temperature=1.0)
        assert result.valid
        assert result.guarantee == "grammar"
        assert result.remote is not None
        assert result.remote.held


def test_keywords_that_the_servers_own_converter_ignores(engine: tm.Engine, server: tuple[str, Running]) -> None:
    if server[0] == "vllm":
        with pytest.raises(tm.UnsupportedKeyword):
            engine.generate(messages=ASK, schema={"type": "object", "dependentRequired": {"a": ["b"]}})
        return
    schema = {"type": "integer", "multipleOf": 7, "minimum": 14, "maximum": 70}
    for seed in range(4):
        value = engine.generate(messages=ASK, schema=schema, max_tokens=64, seed=seed, temperature=1.5).value
        assert value in range(14, 71, 7)


@pytest.mark.parametrize(
    "target",
    [tm.Regex("[A-Z]{3}-[0-9]{4}"), tm.Choice(["yes", "no", "perhaps"]), tm.Lark('start: "a" ("b" | "c") "d"')],
)
def test_text_formats_hold(engine: tm.Engine, target: Any) -> None:
    result = engine.generate(messages=ASK, schema=target, max_tokens=48)
    assert target.kind == "lark" or target.fits(result.text)
    assert result.text in ("abd", "acd") or target.kind != "lark"


def test_a_tool_is_called(engine: tm.Engine) -> None:
    result = engine.generate(messages=ASK, tools=[TOOL], step="tool_call", max_tokens=96)
    assert result.value.name == "look_up"
    assert result.value.arguments["key"] in ("apples", "boxes")


def test_pieces_of_a_stream_are_its_text(engine: tm.Engine) -> None:
    events = list(engine.stream(messages=ASK, max_tokens=24))
    result = events[-1].result
    assert result is not None
    assert "".join(event.text for event in events) == result.text
    assert result.remote is not None
    assert result.remote.reported.output_tokens == 24 or result.finish_reason == "stop"
    assert result.stats.prompt_tokens > 0


def test_drafts_are_counted_where_the_server_counts_them(engine: tm.Engine, server: tuple[str, Running]) -> None:
    listed = "1 2 3 4 5 6 7 8 " * 8
    result = engine.generate(messages=[{"role": "user", "content": f"Repeat: {listed}"}], max_tokens=48)
    assert result.remote is not None
    told = result.remote.reported
    if server[0] == "vllm":
        assert told.drafted is not None
        assert told.accepted is not None
        assert told.drafted_per_step is None or sum(told.drafted_per_step) == told.drafted
    else:
        assert (told.drafted, told.accepted) == (None, None)


def test_more_calls_than_slots(engine: tm.Engine) -> None:
    async def run() -> list[tm.Result]:
        calls = (engine.agenerate(messages=ASK, schema=SCHEMA, max_tokens=400, seed=seed) for seed in range(12))
        return list(await asyncio.gather(*calls))

    found = asyncio.run(run())
    assert [result.valid for result in found] == [True] * 12
    assert engine.live == 0


def test_an_audit_verifies(engine: tm.Engine, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with tm.session(engine, trace=f"file:{path}", content=True, budget=tm.Budget(tokens=1000)) as session:
        engine.generate(messages=ASK, max_tokens=8)
        engine.generate(messages=ASK, schema=SCHEMA, max_tokens=400)
    assert session.spent.tokens > 8
    assert verify(path) == []
    assert all(record.remote is not None for record in records(read_audit(path)))


def test_another_kind_of_server_is_found_out(gguf: Path) -> None:
    with (
        llamacpp(gguf) as running,
        tm.Engine.remote(running.url, "vllm") as wrong,
        pytest.raises(ConstraintNotHeld, match="ignored"),
    ):
        wrong.generate(messages=ASK, schema=SCHEMA)


OPTIONS: Final = ["yes", "no", "perhaps"]
NEAR: Final = {"vllm": 1e-3, "llamacpp": 0.1}
"""How far from our own log-probabilities a server's may be: llama.cpp keeps keys and values in 16 bits."""


@pytest.fixture(scope="module")
def here() -> Generator[tm.Engine]:
    """The same checkpoint in this process."""
    with tm.Engine.load() as engine:
        yield engine


def test_scores_are_those_of_the_same_weights_here(
    engine: tm.Engine, here: tm.Engine, server: tuple[str, Running], tmp_path: Path
) -> None:
    path, near = tmp_path / "calls.jsonl", NEAR[server[0]]
    asked = tm.DecisionQuestion.choice("Which of these is it?", OPTIONS)
    with tm.session(engine, trace=f"file:{path}", content=True):
        found, decided = engine.choice(OPTIONS, "Hello"), engine.decide(ASK, [asked]).answers[0]
    read = [here.token_logprobs(here.tokenize("Hello"), here.tokenize(option)) for option in OPTIONS]
    assert found.logprobs == pytest.approx([sum(one.logprobs) for one in read], abs=near)
    assert found.how == next(iter(engine.capabilities.values())).scores
    if server[0] == "llamacpp":  # whose file has our chat template; a directory for vLLM's has its own header
        assert decided.logprobs == pytest.approx(here.decide(ASK, [asked]).answers[0].logprobs, abs=near)
    assert sum(decided.probabilities) == pytest.approx(1)
    assert verify(path) == []
    assert [record.remote.scores for record in records(read_audit(path)) if record.remote] == [found.how] * 2


def test_log_probabilities_of_tokens(engine: tm.Engine, here: tm.Engine, server: tuple[str, Running]) -> None:
    prompt, tokens = here.tokenize("There are 5 boxes"), here.tokenize(" with 20 apples")
    theirs, ours = (one.token_logprobs(prompt, tokens, top=3) for one in (engine, here))
    assert theirs.logprobs == pytest.approx(ours.logprobs, abs=NEAR[server[0]])
    assert [max(one)[1] <= 0 and len(one) for one in theirs.top] == [3] * len(tokens)


def test_a_choice_is_written_and_a_turn_has_a_mode(engine: tm.Engine, server: tuple[str, Running]) -> None:
    written = engine.generate(messages=ASK, step="choice", schema={"enum": OPTIONS}, max_tokens=48)
    turn = engine.generate(messages=ASK, step="turn", tool_choice="none", tools=[TOOL], max_tokens=8)
    assert written.value in OPTIONS
    assert {written.plan.mode, turn.plan.mode} == {"ar" if server[0] == "llamacpp" else "lookup_spec"}


def _measured(number: int) -> dict[str, Any]:
    """A line of a request log, with a schema whose outputs are short in every model."""
    properties = {"total": {"type": "integer", "minimum": 0, "maximum": 9}, "unit": {"enum": ["cm", "m"]}}
    schema = {"type": "object", "properties": properties, "required": ["total", "unit"], "additionalProperties": False}
    line = chat_line(step="measure", session=f"loop {number}", seconds=2.0, first_token_seconds=1.0)
    line["request"] |= {
        "messages": [{"role": "user", "content": f"How long is number {number}?"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "length", "schema": schema}},
        "max_completion_tokens": 400,
    }
    return line


def test_a_workload_is_measured_there(server: tuple[str, Running], tmp_path: Path) -> None:
    """One group of a request log, asked again at the server and here."""
    kind, running = server
    lines = [_measured(number) for number in range(12)]
    log, page, store = written(tmp_path / "log.jsonl", *lines), tmp_path / "page.html", tmp_path / "results.jsonl"
    words = ("--run", "recorded", "--run", "local:ar", "--run", f"there={running.url}:{kind}", "--sample", "4")
    files = ("--quality", "0.05", "--page", page, "--store", store, "--json")
    ran = CliRunner().invoke(command_line, ["workload", str(log), *words, *map(str, files)])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    measures = {one["run"]: one for one in found["measures"]}
    assert {one["group"] for one in found["measures"]} == {"measure"}
    assert set(measures) == {"recorded", "local:ar", "there"}
    for name in ("local:ar", "there"):
        one = measures[name]
        assert (one["n"], one["errors"], one["valid"][0]) == (4, {}, 1)
        assert one["last"][0] >= one["first"][0] > 0
    assert "there" in page.read_text()
    again = CliRunner().invoke(command_line, ["workload", str(log), *words, *map(str, files)])
    assert json.loads(again.stdout)["measures"] == found["measures"], "from the file of results alone"


def test_http2(tmp_path: Path) -> None:
    """Calls at once are streams of one connection; one that is left is reset, and the server stops decoding it."""
    program = str(Path(__file__).parent / "programs" / "http2.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [str(python_of("http2")), program, str(tmp_path)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout.splitlines()[-1])
    assert (seen["versions"], seen["connections"]) == (["2"], 1)
    assert seen["texts"] == seen["expected"]
    assert (seen["streamed"], seen["after"]) == (seen["plain"], seen["plain"][: len(seen["after"])])
    assert seen["errors"] == ["trimode.engine.errors.CallCancelled"]


LONG: dict[str, Any] = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 400, "maxItems": 400}
"""An output that cannot end before the server is killed."""


@pytest.mark.parametrize("kind", ["llamacpp", "vllm"])
def test_a_server_killed_amid_a_stream(kind: str, gguf: Path, ministral: Path) -> None:
    begun = llamacpp(gguf) if kind == "llamacpp" else vllm(ministral)
    with begun as first, llamacpp(gguf) as spare:
        pools = [Pool(url=spare.url, name="spare", kind="llamacpp")]
        with tm.Engine.remote(first.url, kind, pools=pools, retry=Retry(attempts=1)) as engine:
            events = engine.stream(messages=ASK, max_tokens=900, schema=LONG)
            shown = next(event.text for event in events if event.text)
            first.kill()
            with pytest.raises(StreamBroken) as found:
                list(events)
            assert found.value.text.startswith(shown)
            result = engine.generate(messages=ASK, max_tokens=8)
            assert result.remote is not None
            assert result.remote.pool == "spare"
            assert any("did not answer" in note for note in result.notes)


def test_leaving_a_stream_frees_the_servers_slot(gguf: Path) -> None:
    with llamacpp(gguf, parallel=1) as running, tm.Engine.remote(running.url, "llamacpp") as engine:
        events = engine.stream(messages=ASK, max_tokens=900, temperature=1.0)
        next(events)
        events.close()
        assert engine.generate(messages=ASK, max_tokens=4).text
        busy = [line for line in httpx.get(f"{running.url}/metrics").text.splitlines() if "processing " in line]
        assert any(line.endswith(" 0") for line in busy)


def test_the_example_runs_on_servers_with_one_audit(server: tuple[str, Running], tmp_path: Path) -> None:
    kind, running = server
    variable = {"llamacpp": "LLAMACPP_URL", "vllm": "VLLM_URL"}[kind]
    environment = {**os.environ, variable: running.url, "PYTHONPATH": str(ROOT / "src")}
    example = str(ROOT / "examples" / "07_elsewhere.py")
    ran = subprocess.run(
        [sys.executable, example], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert ran.returncode == 0, ran.stderr
    assert verify(tmp_path / "agent.jsonl") == []
    found = records(read_audit(tmp_path / "agent.jsonl"))
    assert [None if one.remote is None else one.remote.kind for one in found] == [None, None, kind, kind]
    assert [one.step for one in found] == ["act", "reply"] * 2
