"""`trimode policy ...`, `doctor` and `eval --modes auto`: what they print, from records and a made-up machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from typer.testing import CliRunner, Result

import trimode as tm
from trimode.engine.result import EXACT
from trimode.integrations.cli import app as cli
from trimode.integrations.cli import policy_plots
from trimode.integrations.cli.demo import DATA
from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.round_record import RoundRecord
from trimode.policy.audit.statistics import acceptance, qualities
from trimode.policy.audit.trail import read_audit, records
from trimode.policy.calls.engine import Engine
from trimode.policy.selection.auto import Auto
from trimode.policy.selection.cost_model import CostModel, Curve
from trimode.policy.selection.offers import Weights
from trimode.policy.selection.policies import Policy

CURVE = Curve((1, 8, 64), (0.001, 0.0012, 0.008))
MACHINE = CostModel(CURVE, CURVE, 1e-8)
EPISODES = Path(str(DATA / "episodes.jsonl.gz"))


@pytest.fixture(autouse=True)
def _loaded_once(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "load", lambda _=None, **_words: reference)
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
    assert all(settings.mode in EXACT for settings in policy.steps.values())
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
        for policy in ("as recorded", str(slow), str(fast))
    ]
    by = {(row["step"], row["policy"]): row for row in rows}
    assert by["think", str(fast)]["mode"] == "linear_spec:8"
    assert 0 < by["think", str(fast)]["accepted"] < 1
    assert by["think", str(slow)]["accepted"] is None
    assert by["think", str(slow)]["passes"] > by["think", "as recorded"]["passes"]
    assert all(row["calls"] == 2 and row["tokens_per_s"] > 0 for row in rows)
    table = run(*words)
    assert "derived: predicted, not decoded" in table.output
    assert "predictions not checked: the record holds no token ids" in table.output
    assert "predictions not checked: --no-check" in run(*words, "--no-check").output


def test_tune_and_compare_print_how_far_their_predictions_are_off(reference: Engine, tmp_path: Path) -> None:
    kept, out = tmp_path / "kept.jsonl", tmp_path / "tuned.toml"
    with tm.session(reference, policy=Policy(), trace=f"file:{kept}", content=True):
        for seed in range(4):
            reference.generate("The sea", max_tokens=12, mode="linear_spec", temperature=0.8, seed=seed)
    found = run("policy", "tune", kept, "-o", out)
    assert found.exit_code == 0
    assert "predictions checked on held-out calls" in found.output
    assert "prediction error (median): tokens/s" in found.output
    assert Policy.from_toml(out).steps.keys() == {"generate"}
    spec = tmp_path / "spec.toml"
    spec.write_text('[kinds.prose]\nmode = "linear_spec"\n')
    table = run("policy", "compare", kept, "--policy", spec)
    assert "prediction error (median): tokens/s" in table.output
    assert "acceptance" in table.output
    rows = json.loads(run("policy", "compare", kept, "--policy", spec, "--json").output)
    assert [row["check"] and row["check"]["calls"] for row in rows] == [None, 2]


def test_lock_knows_the_weights_that_it_is_asked_for(
    reference: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, locked = tmp_path / "policy.toml", tmp_path / "lock.toml"
    policy.write_text('name = "open"\n[kinds.plan]\nmax_tokens = 5\n')
    assert run("policy", "lock", policy, "-o", locked).exit_code == 0
    assert Policy.from_toml(locked).kinds["json"].mode == "linear_spec"
    monkeypatch.setitem(reference.__dict__, "weights", Weights(name="LlamaForCausalLM", modes=("ar",)))
    assert run("policy", "lock", policy, "-o", locked, "--checkpoint", "llama").exit_code == 0
    assert {settings.mode for settings in Policy.from_toml(locked).kinds.values()} == {"ar"}
    assert run("policy", "lock", policy, "-o", locked, "--checkpoint", "llama", "--check").exit_code == 0
    assert run("policy", "lock", policy, "-o", locked, "--check").exit_code == 1


def test_auto_stands_beside_files_wherever_policies_are_compared(reference: Engine, tmp_path: Path) -> None:
    path, plain = tmp_path / "audit.jsonl", tmp_path / "plain.toml"
    plain.write_text('name = "plain"\n[kinds.prose]\nmode = "ar"\n')

    @tm.step("prose", max_tokens=8)
    def talk(task: str) -> str:
        return tm.ask(f"Talk about {task}.")

    with tm.session(reference, policy=Policy(), trace=f"file:{path}", content=True), tm.using(mode="linear_spec"):
        talk("tea")
    both = ("--policy", "auto", "--policy", plain)
    rows = json.loads(run("policy", "compare", path, *both, "--json").output)
    assert [row["policy"] for row in rows] == ["as recorded", "auto", "plain"]
    rows = json.loads(run("audit", "replay", path, *both, "--json").output)
    assert [(row["policy"], row["same"]) for row in rows] == [
        ("as recorded", None), ("again", 1), ("auto", 1), ("plain", 1),
    ]  # fmt: skip


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

    monkeypatch.setattr(policy_plots, "import_module", refuse)
    found = run("policy", "show", "--plot", tmp_path / "x.png")
    assert isinstance(found.exception, tm.TrimodeError)
    assert "pip install 'trimode[plots]'" in str(found.exception)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that matplotlib saves."""
    saved: list[Figure] = []
    save = Figure.savefig

    def kept(figure: Figure, *args: Any, **kwargs: Any) -> None:
        saved.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", kept)
    return saved


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata(), dtype=float)]


def labels(axes: Axes) -> list[str]:
    return [str(label) for label in axes.get_legend_handles_labels()[1]]


def test_a_plot_draws_what_the_table_says(tmp_path: Path, figures: list[Figure]) -> None:
    assert run("policy", "show", "--plot", tmp_path / "x.png").exit_code == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    left, right = figures[0].axes
    assert labels(left) == ["base weights", "with the draft adapter"]
    assert points(left.get_lines()[0]) == [
        (rows, 1e3 * seconds) for rows, seconds in zip(CURVE.rows, CURVE.seconds, strict=True)
    ]
    assert {"plan", "prose"} <= set(labels(right))


def test_a_plot_of_what_was_recorded(audit: Path, tmp_path: Path, figures: list[Figure]) -> None:
    png = tmp_path / "audit.png"
    assert run("policy", "tune", audit, "-o", tmp_path / "p.toml", "--plot", png).exit_code == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    accepted, speed, quality = figures[0].axes[:3]
    assert labels(accepted) == ["linear_spec", "quadratic_spec"]
    for line in accepted.get_lines():
        assert [place for place, _ in points(line)] == list(range(1, len(points(line)) + 1))
        assert len(points(line)) <= 5
        assert all(0 <= share <= 1 for _, share in points(line))
    assert labels(speed) == ["linear_spec", "quadratic_spec"]
    assert [tick.get_text() for tick in speed.get_xticklabels()] == ["plan", "prose"]
    assert len(speed.patches) == 4
    assert all(bar.get_height() > 0 for bar in speed.patches)  # type: ignore[attr-defined]
    assert [text.get_text() for text in quality.texts] == ["nothing recorded"]


def test_thresholds_against_quality(reference: Engine, tmp_path: Path, figures: list[Figure]) -> None:
    path = tmp_path / "diffusion.jsonl"

    @tm.step("prose", max_tokens=24)
    def talk(task: str) -> str:
        """Talk about {task}."""
        ...

    with tm.session(reference, policy=Policy(), trace=f"file:{path}", content=True):
        for task in ("tea", "bread"):
            with tm.using(mode="ar"):
                talk(task)
            for threshold in (0.5, 0.95):
                with tm.using(mode="diffusion", threshold=threshold):
                    talk(task)
    rows = qualities(records(read_audit(path)))
    assert [(row.threshold, row.calls, row.compared, row.valid) for row in rows] == [
        (0.5, 2, 2, None),
        (0.95, 2, 2, None),
    ]
    assert rows[0].tokens_per_pass >= rows[1].tokens_per_pass
    run("policy", "tune", path, "-o", tmp_path / "p.toml", "--plot", tmp_path / "x.png")
    quality = figures[0].axes[2]
    begins, whole = quality.get_lines()
    assert points(begins) == [(row.threshold, row.begins_as) for row in rows]
    assert points(whole) == [(row.threshold, row.as_exact) for row in rows]
    assert all(row.begins_as is not None and 0 < row.begins_as < 1 for row in rows)


def test_acceptance_counts_verified_places() -> None:
    def made(accepted: int, *reasons: str) -> RoundRecord:
        rejected = tuple((None, reason) for reason in reasons)
        origins = "a" * accepted + "c"
        return RoundRecord(
            mode="linear_spec",
            origins=origins,
            drafted=accepted + len(rejected),
            accepted=accepted,
            rejected=rejected,
            forward_passes=2,
            fills=(),
            sha256="",
        )

    record = SimpleNamespace(rounds=(made(2, "target", "target"), made(1), made(0, "target"), made(1, "stop")))
    found = acceptance([cast(CallRecord, record)])
    assert found == {"linear_spec": [(4, 0.75), (1, 1.0), (1, 0.0)]}


def test_lock_and_check(tmp_path: Path) -> None:
    policy, locked = tmp_path / "shop.toml", tmp_path / "shop.lock.toml"
    policy.write_text('name = "shop"\n[steps.order]\nmode = "linear_spec"\nblock_length = 16\n')
    assert run("policy", "lock", policy, "-o", locked).exit_code == 0
    assert Policy.from_toml(locked).steps["order"].block_length == 16
    before = locked.read_text()
    same = run("policy", "lock", policy, "-o", locked, "--check")
    assert same.exit_code == 0
    assert "as policy 'shop' is now" in same.output
    policy.write_text(policy.read_text().replace("16", "8"))
    other = run("policy", "lock", policy, "-o", locked, "--check")
    assert other.exit_code == 1
    assert {"-block_length = 16", "+block_length = 8"} <= set(other.stdout.splitlines())
    assert "has moved" in other.stderr
    assert locked.read_text() == before


def test_lock_what_auto_learned(tmp_path: Path) -> None:
    locked = tmp_path / "auto.toml"
    assert run("policy", "lock", "auto", "-o", locked).exit_code == 0
    assert Policy.from_toml(locked).name == "auto"


def test_doctor() -> None:
    found = json.loads(run("doctor", "--json").output)
    assert {"device", "threads", "kernels", "triton", "torch build", "pass", "version", "cache"} <= set(found)
    assert found["pass"]["8 rows"] == "1.2 ms, with the adapter 1.2 ms"
    assert found["version"]["torch"] != "not installed"
    assert found["graphs"] == "off"
    assert set(found["memory"]) == {"weights", "keys and values", "static buffers", "graphs (estimated)"}
    assert found["memory"]["keys and values"].startswith("1023.9 MiB")
    assert found["native-bf16"].startswith(("can run here", "cannot run here: they need avx512_bf16"))
    assert found["native-int8"].startswith(("can run here", "cannot run here: they need avx512_vnni or avx_vnni"))
    lines = run("doctor").output.splitlines()
    assert any(line.startswith("kernels") for line in lines)
    assert any(line.startswith("pass 8 rows") for line in lines)


def test_doctor_examines_the_kernels_that_are_asked_for(reference: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []

    def load(_: str | None, **words: str) -> Engine:
        asked.append(words)
        return reference

    monkeypatch.setattr(Engine, "load", load)
    assert run("doctor", "--kernels", "native-bf16").exit_code == 0
    assert asked == [{"device": "cpu", "kernels": "native-bf16"}]


def test_eval_in_auto_mode_agrees_with_ar(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    words = ("--limit", "1", "--max-tokens", "64", "--modes", "ar,auto")
    assert run("eval", EPISODES, *words, "--json", out).exit_code == 0
    rows = json.loads(out.read_text())
    assert {row["mode"] for row in rows} == {"ar", "auto"}
    assert {row["agree_ar"] for row in rows} == {1.0}
