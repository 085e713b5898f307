"""What the first steps import: the public names, the version and a loaded checkpoint, each in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import trimode


def _printed(code: str) -> str:
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return ran.stdout.strip()


def test_the_public_names_are_listed_before_anything_is_imported() -> None:
    code = "import sys, trimode; print('Engine' in dir(trimode), sorted({'torch', 'jsonschema'} & set(sys.modules)))"
    assert _printed(code) == "True []"
    assert set(trimode.__all__) <= set(dir(trimode))


def test_the_version_is_printed_without_importing_the_command_line() -> None:
    run = "import sys; sys.argv[1:] = ['--version']; from trimode.__main__ import main; main()"
    code = f"{run}; print('typer' in sys.modules)"
    assert _printed(code).split("\n") == [f"trimode {trimode.__version__}", "False"]


def test_loading_a_checkpoint_does_not_import_the_compiler_of_torch() -> None:
    code = "import sys, trimode; trimode.Engine.load().close(); print('torch._dynamo' in sys.modules)"
    assert _printed(code) == "False"


def test_schemas_are_read_without_the_parser_of_iris_until_a_format_needs_it() -> None:
    code = """
import sys
from trimode.policy.schema import schema_of
assert "torch" not in sys.modules and "rfc3987_syntax" not in sys.modules
from jsonschema import Draft202012Validator
checked = Draft202012Validator({"format": "iri"}, format_checker=Draft202012Validator.FORMAT_CHECKER)
assert checked.is_valid("http://example.org/\u00fc") and not checked.is_valid("no iri")
assert schema_of({"type": "integer"}).parse("3") == 3
assert "rfc3987_syntax" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_schemas_are_checked_without_torch(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    data = [{"data": 3, "valid": True}, {"data": "x", "valid": False}]
    file.write_text(json.dumps({"schema": {"type": "integer"}, "tests": data}))
    code = """
import sys
from trimode.integrations.cli.app import app
try:
    app(["schema", "check", sys.argv[1]])
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "compiled" in done.stdout


def test_the_command_line_itself_needs_no_torch() -> None:
    code = "import sys, trimode.integrations.cli.app; assert not {'torch', 'jsonschema', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
