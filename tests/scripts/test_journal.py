"""The journal of a long measurement: whatever was written stays, a line cut in the middle is made again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from auto_bench.journal import Journal


def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    path, about = tmp_path / "deep" / "race.jsonl", {"steps": 3}
    journal = Journal(path, about)
    for number in range(2):
        journal.append({"number": number})
    assert Journal(path, about).rows == [{"number": 0}, {"number": 1}]
    path.write_bytes(path.read_bytes()[:-4])
    again = Journal(path, about)
    assert again.rows == [{"number": 0}]
    again.append({"number": 5})
    assert Journal(path, about).rows == [{"number": 0}, {"number": 5}]


def test_another_measurement_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "race.jsonl"
    Journal(path, {"steps": 3})
    with pytest.raises(SystemExit, match="holds another measurement"):
        Journal(path, {"steps": 4})


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "race.jsonl"
    Journal(path, {"steps": 3})
    with path.open("ab") as file:
        file.write(b'{"number":\r1}\n')
    assert Journal(path, {"steps": 3}).rows == [{"number": 1}]
