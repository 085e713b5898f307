"""Settings of the cluster: what `serve run` says as text, and what is refused by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from trimode.engine.errors import TrimodeError
from trimode.integrations.cli.app import app
from trimode.integrations.ray_serve.settings import ROUTERS, ClusterSettings, built
from trimode.integrations.server.settings import SettingsRefused


def test_arguments_of_serve_run_are_text() -> None:
    found = built({"replicas": "3", "cpus": "0.5", "model": "smollm2", "audit": "runs/audit.jsonl"})
    assert found.cluster() == ClusterSettings(replicas=3, cpus=0.5)
    assert (found.server({}).model, found.server({}).audit) == ("smollm2", Path("runs/audit.jsonl"))


def test_a_file_of_serves_has_the_servers_settings() -> None:
    assert built({"serve": {"slots": 4}}).server({"TRIMODE_QUEUE": "7"}).slots == 4
    assert built({"serve": {"slots": 4}}).server({"TRIMODE_QUEUE": "7"}).queue == 7


@pytest.mark.parametrize(
    ("args", "name"), [({"replica": "3"}, "replica"), ({"replicas": "0"}, "replicas"), ({"router": "fast"}, "router")]
)
def test_what_cannot_be_used_is_named(args: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsRefused, match=f"^{name}: "):
        built(args)


def test_settings_of_the_server_are_checked_as_the_server_does() -> None:
    with pytest.raises(SettingsRefused, match="slots"):
        built({"serve": {"slots": 0}}).server({})


def test_fewer_at_most_than_at_least_is_refused() -> None:
    with pytest.raises(ValidationError, match="most=1: expected at least replicas=2"):
        ClusterSettings(replicas=2, most=1)


def test_the_default_router_is_ours() -> None:
    assert ROUTERS[ClusterSettings().router].startswith("trimode.integrations.ray_serve.router.")


def test_without_ray_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "trimode.integrations.ray_serve.process", raising=False)
    ran = CliRunner().invoke(app, ["serve", "--replicas", "2"])
    assert isinstance(ran.exception, TrimodeError)
    assert "pip install 'trimode[ray]'" in str(ran.exception)


def test_the_command_refuses_fewer_at_most_than_at_least() -> None:
    ran = CliRunner().invoke(app, ["serve", "--replicas", "2", "--replicas-most", "1"])
    assert isinstance(ran.exception, TrimodeError)
    assert str(ran.exception) == "--replicas-most 1: expected at least --replicas, 2"
