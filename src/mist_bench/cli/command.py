"""How a command is declared: by its handler, which has its name, its help and its options.

The files of commands import heavy modules inside the handlers, so that no parse needs torch.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mist_bench.config.schema import SPLITS

Handler = Callable[[argparse.Namespace], None]
Option = tuple[tuple[str, ...], dict[str, Any]]  # as given to ArgumentParser.add_argument


class Command(NamedTuple):
    """What the parser needs of a command."""

    words: str
    options: tuple[Option, ...]
    handler: Handler


COMMANDS: dict[str, Command] = {}  # by name; one of two words is a kind of the first


def command(*options: Option) -> Callable[[Handler], Handler]:
    """Return a decorator: a command with the name of the function, and its first line as help."""

    def declare(handler: Handler) -> Handler:
        words = (handler.__doc__ or "").partition("\n")[0].rstrip(".")
        COMMANDS[handler.__name__.replace("_", "-")] = Command(words, options, handler)
        return handler

    return declare


def option(*names: str, **how: Any) -> Option:
    """Return an option or argument, given as to ``ArgumentParser.add_argument``."""
    return names, how


def paths(**meanings: str) -> tuple[Option, ...]:
    """Return options that must be given, each a path, with what it is."""
    return tuple(
        option(f"--{name}", required=True, type=Path, help=meaning)
        for name, meaning in meanings.items()
    )


def positive(text: str) -> int:
    """Return a whole number > 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


DEVICES = ("auto", "cpu", "cuda")
SPEC = option("--spec", required=True, help="specification: JSON text or a file with it")
DEVICE = option("--device", required=True, choices=DEVICES, help="where networks run")
SPLIT = option("--split", choices=SPLITS, default="test", help="of the dataset (%(default)s)")
PRESET = option("--preset", help="of workflow/config; default: that of config.yaml")
CODE = option("--code", help="digest the code must have; checked if given")
