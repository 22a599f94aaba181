"""The command line: one sub-command per stage, thin, with every expected error in one line."""

import argparse
import logging
import sys
from collections.abc import Sequence

from mist_bench.cli import configuration, measure, official, results, stages  # noqa: F401
from mist_bench.cli.command import COMMANDS
from mist_bench.run.gpu_lease import gpu_lease


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; return 0, 1 after an expected error, or 130 if it is interrupted."""
    options = parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("mist_bench").setLevel(logging.INFO)  # libraries speak of warnings only
    try:
        with gpu_lease(getattr(options, "device", "cpu")):  # before torch is imported
            options.handler(options)
    except (ValueError, OSError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        print(f"mist-bench {options.command}: {words}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # a training stops by itself; the rest has nothing to keep
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; ``handler`` of what it returns is the chosen one's."""
    top = argparse.ArgumentParser(prog="mist-bench", description="Stages of the MIST benchmark.")
    commands = {"": top.add_subparsers(dest="command", required=True, metavar="COMMAND")}
    for name, (words, options, handler) in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group not in commands:
            kinds = commands[""].add_parser(group, help=f"see mist-bench {group} --help")
            commands[group] = kinds.add_subparsers(dest="kind", required=True, metavar="KIND")
        one = commands[group].add_parser(last, help=words, description=words)
        one.set_defaults(handler=handler)
        for names, how in options:
            one.add_argument(*names, **how)
    return top


if __name__ == "__main__":
    sys.exit(main())
