"""Types as agents' steps have them, for counts over schemas that come from pydantic rather than from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict


class Color(Enum):
    RED = "red"
    GREEN = "green"


class Point(BaseModel):
    x: Annotated[int, Field(ge=-10, le=10)]
    y: Annotated[float, Field(gt=0, lt=1)]


class Circle(BaseModel):
    kind: Literal["circle"]
    center: Point
    radius: Annotated[int, Field(gt=0, multiple_of=5)]


class Square(BaseModel):
    kind: Literal["square"]
    corners: Annotated[list[Point], Field(min_length=1, max_length=2)]


class Drawing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: Annotated[str, Field(min_length=3, max_length=20)]
    shapes: list[Annotated[Circle | Square, Field(discriminator="kind")]]
    color: Color | None = None


class Meeting(BaseModel):
    id: UUID
    day: date
    begins: datetime
    at: time | None
    lasts: timedelta
    room: Annotated[str, Field(pattern=r"^[A-Z]\d{2}$")]


class Node(BaseModel):
    name: str
    children: list[Node] = []


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: int


class Address(TypedDict):
    street: str
    number: int


@dataclass
class Person:
    name: str
    address: Address
    tags: tuple[str, ...]
    pair: tuple[int, bool]


TYPES: Mapping[str, Any] = {
    "Point": Point,
    "Drawing": Drawing,
    "Meeting": Meeting,
    "Node": Node,
    "Extra": Extra,
    "Address": Address,
    "Person": Person,
    "shape": Annotated[Circle | Square, Field(discriminator="kind")],
    "counts": dict[str, int],
    "points by color": dict[Color, Point],
    "either": int | str | None,
    "rows": Annotated[list[list[bool]], Field(min_length=2)],
    "host": IPv4Address,
    "anything": Any,
    "label": Literal["a", "b", 3, None],
}
