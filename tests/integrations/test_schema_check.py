"""`trimode schema check`: verdicts a file, data walked through the grammar, totals and exit codes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from trimode.engine.errors import TrimodeError
from trimode.integrations.cli import app as cli
from trimode.integrations.cli.schema_check import Datum, Verdict, entries, lines, summary

Json = Any
CITY = {"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}, "required": ["city"]}
PET: dict[str, Json] = {
    "schema": {"type": "object", "properties": {"cat": {"type": "string"}, "dog": {"type": "string"}},
               "oneOf": [{"required": ["cat"]}, {"required": ["dog"]}]},
    "tests": [{"data": {"cat": "Tom"}, "valid": True}, {"data": {"cat": "Tom", "dog": "Rex"}, "valid": False}],
}  # fmt: skip


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["schema", "check", *map(str, words)])


def written(folder: Path, name: str, entry: Json) -> Path:
    path = folder / name
    path.write_text(json.dumps(entry), encoding="utf-8")
    return path


def report(*words: str | Path) -> tuple[list[Json], Json]:
    found = json.loads(run("--json", *words).output)
    return found["files"], found["summary"]


@pytest.fixture
def city(tmp_path: Path) -> Path:
    tests = [
        {"data": {"n": 2, "city": "Zürich ß"}, "valid": True},
        {"data": {"n": "2", "city": "Bern"}, "valid": False},
        {"data": {"n": 2}, "valid": False},
        {"data": {"city": "Bern", "n": 2.0}, "valid": True},
    ]
    return written(tmp_path, "city.json", {"schema": CITY, "tests": tests})


def test_compiled_with_data(city: Path) -> None:
    (verdict,), totals = report(city)
    assert (verdict["name"], verdict["compiled"], verdict["rewritten"]) == ("city.json", True, False)
    assert verdict["compile_ms"] > 0
    assert [test["grammar"] for test in verdict["tests"]] == ["accepts", "rejects", "rejects", "rejects"]
    assert [test["oracle"] for test in verdict["tests"]] == [True, False, False, True]
    assert verdict["tests"][0]["text"] == '{"city":"Zürich ß","n":2}', "written in the order of the schema"
    assert verdict["tests"][1]["refused_at"] == len('{"city":"Bern","n":')
    assert verdict["tests"][3]["refused_at"] == len('{"city":"Bern","n":2'), "an integer is written without a point"
    assert totals["compiled_share"] == 1
    assert totals["silently_wrong"] == 0
    assert totals["valid_but_rejected"] == 1
    result = run(city)
    assert result.exit_code == 0
    assert "narrower: city.json: stops before '.0}'" in result.output


def test_refused_with_pointer_keyword_and_hint(tmp_path: Path, city: Path) -> None:
    path = written(tmp_path, "unique.json", {"schema": {"items": {"uniqueItems": True}}, "tests": []})
    (first, second), totals = report(path, city)
    assert (first["compiled"], first["pointer"], first["keyword"]) == (False, "/items/uniqueItems", "uniqueItems")
    assert first["error"] == "UnsupportedKeyword"
    assert first["hint"]
    assert second["compiled"]
    assert totals["refused_by_keyword"] == {"uniqueItems": 1}
    assert totals["compiled_share"] == 0.5
    result = run(path, city)
    assert result.exit_code == 1
    assert "unique.json  at /items/uniqueItems: " in result.output


def test_options(tmp_path: Path) -> None:
    pet = written(tmp_path, "pet.json", PET)
    (verdict,), totals = report(pet)
    assert verdict["rewritten"]
    assert totals["rewritten"] == 1
    assert [test["grammar"] for test in verdict["tests"]] == ["accepts", "rejects"]
    (verdict,), _ = report("--no-rewrites", pet)
    assert verdict["keyword"] == "oneOf"
    path = written(tmp_path, "path.json", {"schema": {"type": "string", "format": "path"}})
    assert report("--formats", "assert", path)[0][0]["keyword"] == "format"
    (verdict,), _ = report(path)
    assert verdict["compiled"]
    assert "'path' at /format" in verdict["notes"][0]
    assert "note: path.json: format 'path'" in run("--formats", "annotate", path).output


@pytest.mark.parametrize("name", ["many.jsonl", "many.jsonl.gz"])
def test_one_schema_a_line(tmp_path: Path, name: str) -> None:
    text = "\n".join(json.dumps(entry) for entry in ({**PET, "id": "pet"}, {"schema": {"type": "frob"}}))
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    (pet, other), _ = report(path)
    assert (pet["name"], other["name"]) == ("pet", f"{name}:2")
    assert (other["error"], other["keyword"]) == ("MalformedSchema", "type")


@pytest.mark.parametrize("text", ["{", "[]", '{"type": "string"}', '{"schema": {}, "tests": [{}]}', "\xff", "[" * 9999])
def test_files_that_are_not_of_the_form(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TrimodeError, match=r"odd\.json"):
        list(entries(path))


def test_unknown_word_for_formats(city: Path) -> None:
    result = run("--formats", "loose", city)
    assert isinstance(result.exception, TrimodeError)
    assert "annotate, assert" in str(result.exception)


def test_wrong_and_stopped_data_are_counted_and_shown() -> None:
    """Neither happens with grammars as they are, so they are made by hand."""
    taken = Datum(marked=False, oracle=False, grammar="accepts", text="[1,1]")
    stopped = Datum(marked=True, oracle=True, grammar="error: out of fuel", text="[]")
    verdict = Verdict("a", compiled=True, tests=[taken, stopped])
    assert summary([verdict])["silently_wrong"] == 1
    assert summary([verdict])["stopped"] == 1
    shown = list(lines([verdict]))
    assert "SILENTLY WRONG: a: the grammar takes [1,1]" in shown
    assert "stopped: a: error: out of fuel" in shown
    assert summary([])["compiled_share"] is None


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "bom"])
@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85"])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_json_lines_end_at_line_feeds_alone(tmp_path: Path, suffix: str, inside: str, start: str) -> None:
    entry = {"schema": {"const": f"a{inside}b"}, "tests": []}
    line = json.dumps(entry, ensure_ascii=False)
    assert inside in line
    data = f"{start}{line}\r\n\n{line}\n".encode()
    path = tmp_path / f"lines{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    assert [(name, found) for name, found in entries(path)] == [
        (f"lines{suffix}:1", entry), (f"lines{suffix}:3", entry),
    ]  # fmt: skip


def test_a_json_file_may_begin_with_a_bom(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"schema": CITY}), encoding="utf-8-sig")
    assert [found for _, found in entries(path)] == [{"schema": CITY}]
