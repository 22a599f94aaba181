"""The configuration: stored as the workflow resolved it, its keys, and its JSON schema."""

import argparse
import json

from mist_bench.cli.command import command, option, paths
from mist_bench.cli.inputs import load_preset
from mist_bench.config import resolve as settings


@command(option("--config", required=True, help="JSON text"), *paths(out="file to write"))
def resolve(options: argparse.Namespace) -> None:
    """Store a configuration, after checking it once more."""
    config = settings.parse("--config", options.config)
    options.out.write_text(settings.canonical(config) + "\n", encoding="utf-8")


@command()
def schema(options: argparse.Namespace) -> None:
    """Print workflow/schemas/config.schema.json, by which editors know the keys."""
    from mist_bench.config.editor import editor_schema

    print(json.dumps(editor_schema(load_preset(None)), indent=1, ensure_ascii=False))


@command(option("name", nargs="?", help="of a method, dataset, backbone or module"))
def keys(options: argparse.Namespace) -> None:
    """Explain the keys of the configuration."""
    from mist_bench.config.docs import document

    print(document(load_preset(None), options.name), end="")
