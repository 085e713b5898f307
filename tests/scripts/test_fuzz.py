"""Broken schemas, a few hundred of those that the long run makes."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import fuzz_schemas

NODE = {"properties": {"n": {"$ref": "#/$defs/N"}}, "oneOf": [{"type": "object"}], "required": ["n"]}
GIVEN = [
    {"$ref": "#/$defs/N", "$defs": {"N": NODE}},
    {"type": "object", "properties": {"a": {"enum": ["x", 1]}, "b": {"type": "string", "pattern": "^a+$"}}},
    {"$schema": "http://json-schema.org/draft-04/schema#", "items": {"format": "date"}, "dependencies": {"a": ["b"]}},
]


def test_broken_schemas_are_taken_or_refused_in_our_words() -> None:
    report = fuzz_schemas.run(GIVEN, mutants=600, seed=5)
    assert report["outside"] == []
    assert report["verdicts"]["taken"] > 50
    assert report["verdicts"]["MalformedSchema"] > 50
    assert report["endless"] == []
    assert sum(report["verdicts"].values()) == 600


def test_a_mutant_follows_from_its_number_alone() -> None:
    """Mutants that changed the values that others are made of grew from one to the next, until none was ever done."""
    alone = [repr(fuzz_schemas.mutated(GIVEN, Random(f"5:{n}"))) for n in range(300)]
    assert [repr(fuzz_schemas.mutated(GIVEN, Random(f"5:{n}"))) for n in range(300)] == alone
