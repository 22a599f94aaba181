"""Which settings are not the preset's: a run's, or those of the whole configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from mist_bench import config as settings
from mist_bench import provenance
from mist_bench.schema import Config, RunSpec
from mist_bench.signatures import ConfigError
from mist_bench.targets import SETTINGS

# how often a training is looked at or stored
WATCHING = {"training.log_every", "training.checkpoint_every"}


def changed_setting(then: Mapping[str, Any], spec: RunSpec) -> str:
    """Return the first setting that a run had otherwise than ``spec``, '' if there is none.

    A setting that its config.json lacks did not exist yet, and is not compared; nor is one that
    changes no result.
    ``planning.is_done`` compares the whole text, since that is what makes Snakemake train again.

    Args:
        then: what is in config.json of the run.
        spec: of the run, as the configuration is now.

    Returns:
        ``key: the run's -> the configuration's``.
    """
    now = spec.model_dump(mode="json")
    lines = provenance.changes(settings.merge(now, then), now)
    return next((line for line in lines if line.partition(":")[0] not in WATCHING), "")


def changes_of_preset(config: Config) -> list[str]:
    """Return the settings that are not the preset's; none if there is no preset of that name.

    Seeds and device are not among them: a caption names the seeds, the report the devices. Nor are
    settings of single methods that have yielded to ``training`` of all.

    Returns:
        ``key: the preset's -> the configuration's``, or the key alone if its value is a path, a
        list or a mapping.
    """
    try:
        preset = _preset(config.preset)
    except ConfigError:
        return []
    elsewhere = {"seeds", "device"}
    then, now = (one.model_dump(mode="json", exclude=elsewhere) for one in (preset, config))
    return [
        line.partition(":")[0] if re.search(r"[/\[{]", line) else line
        for line in provenance.changes(then, now)
        if not line.endswith("-> (not set)")
    ]


@cache
def _preset(name: str) -> Config:
    return settings.load(SETTINGS, {"preset": name})
