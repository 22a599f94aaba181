"""How parameters are declared: a base class for groups of them, and the ranges they share.

A group is a small frozen class beside what it configures, or a keyword of ``build``; each field has
a type, a range, a description with unit and source, and a default. Torch-free: the workflow checks
every value when it reads the configuration, before any job starts.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mist_bench.types import Kind

T = TypeVar("T", list, tuple)


class Spec(BaseModel):
    """Parameters that belong together: immutable, typed without conversions, all keys known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Only:
    """Marks a keyword of ``build`` that one kind of task alone has, as ``Annotated[..., Only(k)]``.

    In other tasks the keyword is refused, and ``build`` gets its default.
    """

    kind: Kind


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("should be an odd number")
    return value


def rising(pair: tuple[float, float]) -> tuple[float, float]:
    """Return ``pair``.

    Raises:
        ValueError: if its first number is above its second.
    """
    if pair[0] > pair[1]:
        raise ValueError(f"should be a range that rises, {pair[0]:g} is above {pair[1]:g}")
    return pair


def different(values: T) -> T:
    """Return ``values``, a list or tuple.

    Raises:
        ValueError: if one of them is there twice.
    """
    if twice := [value for i, value in enumerate(values) if value in values[:i]]:
        raise ValueError(f"{twice[0]!r} is listed twice")
    return values


def within(low: float, high: float, number: type = float) -> Any:
    """Return the type of a range, from which is drawn uniformly, inside ``low``..``high``."""
    bounded = Annotated[number, Field(ge=low, le=high)]
    return Annotated[tuple[bounded, bounded], AfterValidator(rising)]


def _expanded(path: str) -> str:
    """Return a path whose ``~`` or ``~user`` is replaced by that home folder."""
    if not path.strip():
        raise ValueError("should be a path, or null for none, and is empty")
    found = os.path.expanduser(path)
    if found.startswith("~") and not os.path.exists(found):
        raise ValueError(f"there is no home folder {path.partition('/')[0]}: write it out")
    return found


def _folder(path: str) -> str:
    if not os.path.isdir(found := _expanded(path)):
        raise ValueError(f"there is no folder {found}: create it, correct the path, or give null")
    return found


def _file(path: str) -> str:
    if not os.path.isfile(found := _expanded(path)):
        raise ValueError(f"there is no file {found}: put it there, correct the path, or give null")
    return found


Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
OddCount = Annotated[int, Field(ge=1), AfterValidator(_odd)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[Decay, Decay]  # Adam's decay rates of the mean and of the square
Range = Annotated[tuple[float, float], AfterValidator(rising)]  # drawn from uniformly
Folder = Annotated[str, AfterValidator(_folder)]  # there; ~ is the home folder
File = Annotated[str, AfterValidator(_file)]  # likewise


def errors_of(model: type[BaseModel], data: Any) -> list[tuple[tuple, str, Any]]:
    """Return where ``data`` are wrong for ``model``, the kind of error, and its words."""
    try:
        model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        return [(one["loc"], one["type"], one["msg"]) for one in error.errors()]
    return []
