"""What pages share: head, heading, verdict, figures and foot, and how a template is filled in.

Knows jinja2 and the files in `assets`. Does not know what a page shows. A page loads nothing: style and script are in
it, and its content policy allows the script by its digest alone.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

_PACKAGE: Final = "trimode.integrations.report"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What stands around a page. `kind`: of page, as its title says; `good`, `word`, `sentence`: the verdict;
    `totals`: value and name of each figure at the top; `first`: id and name of what the first link skips to."""

    name: str
    kind: str
    first: tuple[str, str]
    good: bool
    word: str
    sentence: str
    totals: Sequence[tuple[str, str]]
    remarks: Sequence[str]
    style: Markup
    script: Markup

    @property
    def script_sha256(self) -> str:
        """The script's digest, as content policies have it."""
        return b64encode(sha256(self.script.encode()).digest()).decode()


def filled(template: str, frame: Frame, package: str = _PACKAGE, **values: object) -> str:
    """Returns the page: a template of `package`'s assets, which extends `frame.html`, with these values."""
    return _environment(package).get_template(template).render(frame=frame, **values)


@cache
def asset(name: str, package: str = _PACKAGE) -> str:
    """Returns the text of a file in the assets of `package`."""
    return (files(package) / "assets" / name).read_text(encoding="utf-8")


@cache
def _environment(package: str) -> Environment:
    def load(name: str) -> str:
        return asset(name, _PACKAGE if name == "frame.html" else package)

    made = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(load)
    )
    made.filters["place"] = "{:.3f}%".format
    return made
