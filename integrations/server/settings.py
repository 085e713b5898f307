"""Settings of the server: their defaults, and where they may be given.

    defaults < configuration file (TOML) < environment (TRIMODE_*) < command line

Knows names, types and ranges. Does not know engines or HTTP. Unknown keys of the file and values out of range are
refused; other variables of the environment that begin with TRIMODE_ belong to other parts and are left alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trimode.engine.errors import TrimodeError

PREFIX: Final = "TRIMODE_"
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


class SettingsRefused(TrimodeError):
    """A setting of the server that is unknown, or whose value cannot be used."""


class ServerSettings(BaseModel):
    """What `trimode serve` runs with. Times are in seconds, sizes in bytes."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        default=None, description="Directory, GGUF file, `smollm2` or hub id; None: the bundled one."
    )
    name: str | None = Field(default=None, description="The model's name in the API; None: the checkpoint's own.")
    host: str = Field(default="127.0.0.1", description="Address to listen on; loopback unless said otherwise.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    device: str = Field(default="cpu", description="Device of the weights.")
    dtype: str = Field(default="float32", description="Arithmetic of the weights.")
    kv_bytes: int = Field(default=1 << 30, ge=1, description="Memory for keys and values.")
    api_key_file: Path | None = Field(
        default=None, description="Names and digests of API keys; None: no key is asked for."
    )
    policy: str = Field(
        default="default", description="Policy of requests that name none: default, auto, or a .toml file."
    )
    policies: dict[str, str] = Field(
        default={}, description="Other policies that requests may name, and their .toml files."
    )
    calibration: dict[str, float] = Field(
        default={}, description="Correction of decisions' shares: temperature, slope and offset."
    )
    audit: Path | None = Field(default=None, description="Audit file that every call is appended to.")
    content: bool | None = Field(
        default=None, description="Keep text and ids in the audit file; None: as the environment says."
    )
    queue: int = Field(default=128, ge=0, description="Calls that may wait for a slot.")
    slots: int = Field(default=32, ge=1, description="Calls that run at once.")
    tenant_slots: int | None = Field(
        default=None, ge=1, description="Slots of one API key at most; None: half, with keys."
    )
    tenant_queue: int | None = Field(
        default=None, ge=1, description="Waiting calls of one API key; None: half, with keys."
    )
    tenant_cache: bool = Field(default=False, description="Keep the prefixes of each API key apart.")
    timeout: float = Field(default=600.0, gt=0, description="Seconds for a request, waiting included.")
    drain: float = Field(default=30.0, ge=0, description="Seconds after SIGTERM for requests that have begun.")
    keep_alive: float = Field(default=15.0, gt=0, description="Seconds between comments on a stream without events.")
    stall: float = Field(default=60.0, gt=0, description="Seconds that a reader may leave a full connection unread.")
    body_timeout: float = Field(default=30.0, gt=0, description="Seconds for a request's body to arrive.")
    max_body: int = Field(default=4 << 20, ge=1, description="Bytes of a request's body.")
    max_depth: int = Field(default=64, ge=4, le=200, description="Nesting of a request's body.")
    max_messages: int = Field(default=1024, ge=1, description="Messages of a conversation.")
    max_tools: int = Field(default=128, ge=1, description="Tools of a request.")
    max_choices: int = Field(default=16, ge=1, description="Outputs of one request (`n`, or prompts times `n`).")
    cors: list[str] = Field(default=[], description="Origins whose pages may call the server; none by default.")
    hosts: list[str] = Field(
        default=[], description="Names in the Host header; empty: those of loopback when it listens there."
    )
    log_level: str = Field(default="info", description="debug, info, warning or error.")

    @field_validator("cors", "hosts", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        """Splits a text at commas, because a variable of the environment has no lists."""
        return [one.strip() for one in given.split(",") if one.strip()] if isinstance(given, str) else given

    @classmethod
    def gathered(cls, options: Mapping[str, Any], environment: Mapping[str, str], file: Path | None) -> Self:
        """Returns the settings from all sources. `options`: of the command line; None leaves one open.

        Raises SettingsRefused, which names the source.
        """
        named = {name: environment[key] for name in cls.model_fields if (key := _variable(name)) in environment}
        for table in ("policies", "calibration"):
            if table in named:
                raise SettingsRefused(f"{_variable(table)}: a table belongs into the configuration file")
        given = {name: value for name, value in options.items() if value is not None}
        sources = [
            (str(file), _of_file(file)),
            ("the environment", named),
            ("the command line", given),
        ]
        for source, values in sources:  # each alone, so that the error can say where the value stands
            cls._checked(source, values)
        return cls._checked("settings", {name: value for _, values in sources for name, value in values.items()})

    @classmethod
    def _checked(cls, source: str, values: Mapping[str, Any]) -> Self:
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"]))
            why = first["msg"]
            if first["type"] == "extra_forbidden":
                why = f"no such setting; known: {', '.join(cls.model_fields)}"
            raise SettingsRefused(f"{source}: {name}: {why}") from None

    @property
    def loopback(self) -> bool:
        """Whether only programs of this machine can reach the server."""
        return self.host in LOOPBACK

    @property
    def allowed_hosts(self) -> list[str]:
        """Names that the Host header may have; ["*"] for any."""
        return self.hosts or (["127.0.0.1", "localhost", "[::1]"] if self.loopback else ["*"])


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _of_file(path: Path | None) -> Mapping[str, Any]:
    """Returns the table of a configuration file: its `[serve]`, or the whole file where it has none."""
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsRefused(f"{path}: {error}") from None
    found = table.get("serve", table)
    if not isinstance(found, dict):
        raise SettingsRefused(f"{path}: serve: expected a table")
    return found
