"""How parameters are declared: a base class for groups of them, and the ranges they share.

A group is a small frozen class beside what it configures, or a keyword of ``build``; each field has
a type, a range, a description with unit and source, and a default. Torch-free: the workflow checks
every value when it reads the configuration, before any job starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mist_bench.types import Kind


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


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"should be a range that rises, {pair[0]:g} is above {pair[1]:g}")
    return pair


Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
OddCount = Annotated[int, Field(ge=1), AfterValidator(_odd)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[Decay, Decay]  # Adam's decay rates of the mean and of the square
Range = Annotated[tuple[float, float], AfterValidator(_rising)]  # drawn from uniformly
