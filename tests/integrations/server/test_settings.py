"""Settings from a file, the environment and the command line, each over the one before; and the key file."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trimode.integrations.cli.app import app
from trimode.integrations.server.keys import KeyFileRefused, Keys, add_key, read_keys
from trimode.integrations.server.logs import JsonLines
from trimode.integrations.server.process import NotListening, listen
from trimode.integrations.server.settings import ServerSettings, SettingsRefused


def gathered(options: dict[str, Any], environment: dict[str, str], file: Path | None = None) -> ServerSettings:
    return ServerSettings.gathered(options, environment, file)


def test_the_nearest_source_wins(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("[serve]\nport = 1\nqueue = 2\nslots = 3\n")
    found = gathered({"port": 9, "host": None}, {"TRIMODE_PORT": "8", "TRIMODE_QUEUE": "7"}, file)
    assert (found.port, found.queue, found.slots, found.host) == (9, 7, 3, "127.0.0.1")


def test_a_file_may_be_the_table_itself(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('port = 1\ncors = ["http://a"]\n[policies]\nfast = "fast.toml"\n')
    assert gathered({}, {"TRIMODE_HOSTS": "a, b"}, file).hosts == ["a", "b"]
    assert gathered({}, {}, file).policies == {"fast": "fast.toml"}
    with pytest.raises(SettingsRefused, match="TRIMODE_CALIBRATION: a table belongs into the configuration file"):
        gathered({}, {"TRIMODE_CALIBRATION": "2"}, file)


def test_other_variables_are_left_alone() -> None:
    assert gathered({}, {"TRIMODE_CACHE": "/somewhere"}) == ServerSettings()


@pytest.mark.parametrize(
    ("options", "environment", "text", "why"),
    [
        ({}, {}, "prot = 1", r"serve.toml: prot: no such setting; known: model"),
        ({}, {}, "port = ", r"serve.toml"),
        ({}, {}, "serve = 3", "expected a table"),
        ({}, {"TRIMODE_PORT": "many"}, "", "the environment: port"),
        ({}, {"TRIMODE_POLICIES": "{}"}, "", "TRIMODE_POLICIES"),
        ({"slots": 0}, {}, "", "the command line: slots"),
    ],
)
def test_refusals_name_their_source(
    options: dict[str, Any], environment: dict[str, str], text: str, why: str, tmp_path: Path
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(text)
    with pytest.raises(SettingsRefused, match=why):
        gathered(options, environment, file)


def test_only_loopback_names_are_allowed_on_loopback() -> None:
    assert ServerSettings().allowed_hosts == ["127.0.0.1", "localhost", "[::1]"]
    assert ServerSettings(host="0.0.0.0").allowed_hosts == ["*"]
    assert ServerSettings(host="0.0.0.0", hosts=["a"]).allowed_hosts == ["a"]


def test_a_key_is_kept_as_a_digest_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    done = CliRunner().invoke(app, ["keys", "add", "ada", "--file", str(file)])
    key = done.stdout.strip()
    assert key.startswith("tm-")
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    add_key(file, "bob")
    keys = read_keys(file)
    assert keys.tenant(key) == "ada"
    assert keys.tenant(f"{key}x") is None
    assert keys.tenant(None) is None
    assert keys.tenant("\ud800") is None


def test_without_keys_everybody_is_the_same_tenant() -> None:
    assert Keys({}).tenant(None) == Keys({}).tenant("any") == ""


@pytest.mark.parametrize("text", ["", "# none\n", "ada\n", "ada 12\n", f"a {'0' * 64}\na {'1' * 64}\n"])
def test_key_files_that_are_none(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(KeyFileRefused):
        read_keys(file)
    with pytest.raises(KeyFileRefused):
        read_keys(tmp_path / "absent")


def test_names_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    add_key(file, "ada")
    for name in ("ada", "a b", "", "x" * 65, "a\n"):
        with pytest.raises(KeyFileRefused):
            add_key(file, name)


def test_a_port_in_use_is_refused_before_a_model_is_loaded() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(NotListening, match="cannot listen"):
        listen("127.0.0.1", first.getsockname()[1])


def test_a_line_of_the_log_is_json() -> None:
    record = logging.LogRecord("trimode.server", logging.INFO, "", 0, "request %s", ("x",), None)
    record.fields = {"status": 200, "tenant": "ä"}
    line = json.loads(JsonLines().format(record))
    assert (line["message"], line["status"], line["tenant"], line["level"]) == ("request x", 200, "ä", "info")


def test_answers_are_not_held_back_until_their_headers_are_acknowledged() -> None:
    """asyncio sets TCP_NODELAY on connections whose socket names its protocol, and on no others."""
    set_on = list[int]()

    async def asked(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        set_on.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(asked, sock=listen("127.0.0.1", 0))
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await reader.read()
        writer.close()
        server.close()

    asyncio.run(ask())
    assert set_on
    assert all(set_on)
