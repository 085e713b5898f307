"""Every error of ours reaches another process as it was: through pickle, by copy, and out of a process pool."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from made_errors import MADE, classes, content

import trimode as tm
from trimode.engine.errors import TrimodeError
from trimode.policy.calls.engine import Engine
from trimode.policy.refused import WithResult
from trimode.testing import FakeEngine

POOL = """
import sys
sys.path.insert(0, sys.argv[1])
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from made_errors import MADE, content, fail

if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for kind, make in MADE.items():
            error = pool.submit(fail, kind.__name__).exception(timeout=120)
            assert content(error) == content(make()), (kind, error)
            print(kind.__name__)
"""


def test_every_class_is_here() -> None:
    public = {getattr(tm, name) for name in tm.__all__}
    ours = set(classes(TrimodeError)) - {WithResult}  # a base, which nobody raises
    assert {kind for kind in public if isinstance(kind, type) and issubclass(kind, BaseException)} <= ours
    assert {kind for kind in ours if kind.__module__.startswith("trimode.")} == {
        kind for kind in MADE if issubclass(kind, TrimodeError)
    }


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_an_error_is_the_same_after_pickle(kind: type[Exception], protocol: int) -> None:
    error = MADE[kind]()
    assert type(error) is kind
    again = pickle.loads(pickle.dumps(error, protocol))
    assert content(again) == content(error)
    assert getattr(again, "result", None) is None
    assert content(copy.copy(error)) == content(error)


def test_a_process_pool_hands_every_error_on(tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL, encoding="utf-8")
    command = [sys.executable, str(script), str(Path(__file__).parent)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [kind.__name__ for kind in MADE]


@pytest.mark.skipif("__reduce__" not in vars(Engine), reason="engines do not say yet that they cannot be pickled")
def test_engines_and_sessions_say_that_they_stay_in_their_process() -> None:
    engine = FakeEngine()
    with tm.session(engine) as session:
        for one in (engine, session):
            with pytest.raises(tm.TrimodeError, match="each process"):
                pickle.dumps(one)
