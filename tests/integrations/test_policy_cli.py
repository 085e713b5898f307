"""`trimode policy ...`, `doctor` and `eval --modes auto`: what they print, from records and a made-up machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import trimode as tm
from trimode.integrations.cli import app as cli
from trimode.integrations.cli import policy as commands
from trimode.integrations.cli.demo import DATA
from trimode.policy.auto import Auto
from trimode.policy.cost import CostModel, Curve
from trimode.policy.engine import Engine
from trimode.policy.resolve import Policy

CURVE = Curve((1, 8, 64), (0.001, 0.0012, 0.008))
MACHINE = CostModel(CURVE, CURVE, 1e-8)
EPISODES = Path(str(DATA / "episodes.jsonl.gz"))


@pytest.fixture(autouse=True)
def _loaded_once(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "load", lambda _=None: reference)
    monkeypatch.setitem(reference.__dict__, "cost", MACHINE)
    monkeypatch.setitem(reference.__dict__, "auto", Auto(MACHINE))


def run(*words: str | Path) -> Result:
    found = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert found.exception is None or isinstance(found.exception, tm.TrimodeError | SystemExit), found.exception
    return found


@pytest.fixture(scope="module")
def audit(reference: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"

    @tm.step("plan", max_tokens=30)
    def think(task: str) -> str:
        """Think about {task}."""
        ...

    @tm.step("prose", max_tokens=30)
    def talk(task: str) -> str:
        """Talk about {task}."""
        ...

    with tm.session(reference, policy=Policy(), trace=f"file:{path}", content=False):
        for mode in ("linear_spec", "quadratic_spec"):
            with tm.using(mode=mode, block_length=6):
                think("bread")
                talk("tea")
    return path


def test_explain_says_why(audit: Path) -> None:
    rows = json.loads(run("policy", "explain", audit, "--json").output)
    assert [row["step"] for row in rows] == ["think", "talk"] * 2
    assert rows[0]["reason"] == "linear_spec: using(mode='linear_spec', block_length=6)"
    assert rows[2]["modes"] == "quadratic_spec"
    assert rows[0]["switches"] == []
    table = run("policy", "explain", audit)
    assert table.exit_code == 0
    assert "using(mode='quadratic_spec'" in " ".join(table.output.split())


def test_tune_writes_a_policy_that_loads(audit: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.toml"
    assert run("policy", "tune", audit, "-o", out, "--name", "mine").exit_code == 0
    policy = Policy.from_toml(out)
    assert policy.name == "mine"
    assert set(policy.steps) == {"think", "talk"}
    assert set(policy.kinds) == {"plan", "prose"}
    assert all(said.mode in ("ar", "linear_spec", "quadratic_spec") for said in policy.steps.values())
    assert run("policy", "compare", audit, "--policy", out).exit_code == 0


def test_tune_refuses_what_it_cannot_learn_from(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    found = run("policy", "tune", empty, "-o", tmp_path / "p.toml")
    assert isinstance(found.exception, tm.PolicyError)
    assert "record some first" in str(found.exception)
    assert not (tmp_path / "p.toml").exists()


def test_compare_keeps_recorded_and_derived_apart(audit: Path, tmp_path: Path) -> None:
    slow, fast = tmp_path / "slow.toml", tmp_path / "fast.toml"
    slow.write_text('[kinds.plan]\nmode = "ar"\n[kinds.prose]\nmode = "ar"\n')
    fast.write_text('[steps.think]\nmode = "linear_spec"\nblock_length = 8\n')
    words = ("policy", "compare", audit, "--policy", slow, "--policy", fast)
    rows: list[dict[str, Any]] = json.loads(run(*words, "--json").output)
    assert [(row["step"], row["policy"], row["derived"]) for row in rows] == [
        (step, policy, policy != "as recorded")
        for step in ("talk", "think")
        for policy in ("as recorded", "slow", "fast")
    ]
    by = {(row["step"], row["policy"]): row for row in rows}
    assert by["think", "fast"]["mode"] == "linear_spec:8"
    assert 0 < by["think", "fast"]["accepted"] < 1
    assert by["think", "slow"]["accepted"] is None
    assert by["think", "slow"]["passes"] > by["think", "as recorded"]["passes"]
    assert all(row["calls"] == 2 and row["tokens_per_s"] > 0 for row in rows)
    table = run(*words)
    assert "derived: predicted, not decoded" in table.output


def test_compare_names_the_line_of_a_wrong_policy(audit: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('[kinds.plan]\nmode = "diffusion"\n')
    found = run("policy", "compare", audit, "--policy", wrong)
    assert str(found.exception).startswith(f"{wrong}:2: ")


def test_other_weights_are_said(
    audit: Path, tmp_path: Path, reference: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setitem(reference.__dict__, "runtime", replace(reference.runtime, model_sha256="0" * 64))
    found = run("policy", "tune", audit, "-o", tmp_path / "p.toml")
    assert "recorded with other weights" in found.stderr


def test_show() -> None:
    found = json.loads(run("policy", "show", "--json").output)
    assert found["cost"] == json.loads(json.dumps(MACHINE.as_dict()))
    assert {row["kind"] for row in found["derived"]} >= {"plan", "tool_call", "json", "prose"}
    assert "diffusion" not in {row["variant"].split(":")[0] for row in found["derived"]}
    assert "1.20" in run("policy", "show").output


def test_a_plot_without_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> ModuleType:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(commands, "import_module", refuse)
    found = run("policy", "show", "--plot", tmp_path / "x.png")
    assert isinstance(found.exception, tm.TrimodeError)
    assert "pip install 'trimode[plots]'" in str(found.exception)


def test_a_plot_draws_what_the_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Any, ...]] = []

    class Axes:
        def plot(self, *args: Any, label: str, **_: Any) -> None:
            drawn.append((label, *args))

        def set(self, **_: str) -> None: ...
        def legend(self) -> None: ...

    class Figure:
        def __init__(self, **_: Any) -> None: ...
        def subplots(self, *_: int) -> tuple[Axes, Axes]:
            return Axes(), Axes()

        def savefig(self, path: Path, **_: Any) -> None:
            path.write_bytes(b"png")

    module = ModuleType("figure")
    vars(module)["Figure"] = Figure
    monkeypatch.setattr(commands, "import_module", lambda _: module)
    assert run("policy", "show", "--plot", tmp_path / "x.png").exit_code == 0
    assert (tmp_path / "x.png").read_bytes() == b"png"
    assert drawn[0] == ("base weights", CURVE.rows, [1e3 * seconds for seconds in CURVE.seconds])
    assert {label for label, *_ in drawn[2:]} >= {"plan", "prose"}


def test_doctor() -> None:
    found = json.loads(run("doctor", "--json").output)
    assert {"device", "threads", "kernels", "triton", "torch build", "pass", "version", "cache"} <= set(found)
    assert found["pass"]["8 rows"] == "1.2 ms, with the adapter 1.2 ms"
    assert found["version"]["torch"] != "not installed"
    lines = run("doctor").output.splitlines()
    assert any(line.startswith("kernels") for line in lines)
    assert any(line.startswith("pass 8 rows") for line in lines)


def test_eval_in_auto_mode_agrees_with_ar(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    words = ("--limit", "1", "--max-tokens", "64", "--modes", "ar,auto")
    assert run("eval", EPISODES, *words, "--json", out).exit_code == 0
    rows = json.loads(out.read_text())
    assert {row["mode"] for row in rows} == {"ar", "auto"}
    assert {row["agree_ar"] for row in rows} == {1.0}
