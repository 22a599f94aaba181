"""All runs of a preset as one long table: one row per run and metric, also for runs that failed.

And what of their settings is not the preset's.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from mist_bench.config import provenance
from mist_bench.config import resolve as settings
from mist_bench.config.keywords import ConfigError, defaults, parameters
from mist_bench.config.schema import Config, RunSpec
from mist_bench.config.targets import SETTINGS, run_folder

OTHER_SETTINGS = "other settings"
NO_SOURCE = "no manifest, hence not known"
COLUMNS = [
    *("preset", "experiment", "method", "seed", "status", "reason", "metric", "value"),
    *("images", "instances", "steps", "seconds", "commit"),
]
# how often a training is looked at or stored: changes no result
WATCHING = {"training.log_every", "training.checkpoint_every"}
NAMED = 3  # changes that a caption names


def collect(config: Config, results: Path) -> pd.DataFrame:
    """Return every run the configuration names, whatever became of it.

    Args:
        config: names experiments, methods and seeds.
        results: the preset's folder, with runs/{experiment}/{method}/seed{n}/.

    Returns:
        One row per run and metric with the columns ``COLUMNS``, what a step costs among the
        metrics; ``status`` is ``ok``, ``failed``, ``not run`` or ``OTHER_SETTINGS``. A run that is
        not ``ok`` has one row, with its reason and an empty metric.
    """
    rows = [
        row
        for experiment, setup in config.experiments.items()
        for method in setup.methods + setup.rivals
        for seed in config.seeds
        for row in _rows(config, results, experiment, method, seed)
    ]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    counts = dict.fromkeys(("images", "instances", "steps"), "Int64")  # whole also beside gaps
    return frame.astype(counts | {"value": float, "seconds": float})


def _rows(
    config: Config, results: Path, experiment: str, method: str, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one run."""
    folder = run_folder(results, experiment, method, seed)
    run = read_json(folder / "run.json") or {}
    # without its record, a training is going on or has failed: its old metrics are another run's
    metrics = read_json(folder / "metrics.json") if run else None
    names = {"preset": config.preset, "experiment": experiment, "method": method, "seed": seed}
    status, reason = _status(folder, run, metrics, names)
    if status == "ok" and (then := read_json(folder / "config.json")):
        spec = settings.run_spec(config, experiment, method, seed)
        if changed := changed_setting(then, spec):
            status, reason = OTHER_SETTINGS, one_line(changed)
    common = names | {"status": status, "reason": reason}
    common |= {key: run.get(key) for key in ("steps", "seconds", "commit")}
    if status != "ok":
        yield common
        return
    common |= {key: metrics.get(key) for key in ("images", "instances")}
    for metric, value in [*sorted(metrics["metrics"].items()), *costs(run).items()]:
        yield common | {"metric": metric, "value": value}


def costs(run: dict[str, Any]) -> dict[str, float]:
    """Return what the record of a run says of its costs, by the names of metrics."""
    steps = run.get("steps")
    times = [name for name in ("seconds", "cpu_seconds") if steps and name in run]
    on_gpu = str(run.get("device", "")).startswith("cuda")
    memory = run.get("peak_gpu_memory_mib" if on_gpu else "peak_memory_mib")
    found = {f"{name}_per_step": run[name] / steps for name in times}
    return found if memory is None else found | {"peak_memory_mib": memory}


def _status(
    folder: Path, run: dict[str, Any], metrics: dict[str, Any] | None, names: dict[str, Any]
) -> tuple[str, str]:
    """Return the status of a run and the reason if it is not ok."""
    if metrics is None:
        broken = bool(run) and (folder / "metrics.json").exists()
        return ("failed", "metrics.json is unreadable") if broken else _without_metrics(folder)
    if not isinstance(metrics.get("metrics"), dict):
        return "failed", "metrics.json holds no metrics"
    for key, expected in names.items():
        if metrics.get(key, expected) != expected:
            return "failed", f"metrics.json is of {key} {metrics[key]!r}, not {expected!r}"
    weights, digest = folder / "weights.safetensors", metrics.get("weights_sha256")
    # earlier versions did not store it
    if digest and weights.is_file() and digest != provenance.file_digest(weights):
        return "failed", "metrics of earlier weights"
    return "ok", ""


def _without_metrics(folder: Path) -> tuple[str, str]:
    """Return status and reason of a run without metrics, from the end of its newest log."""
    logs = [path for path in folder.glob("*.log") if path.stat().st_size]
    if not logs:
        return "not run", "no metrics.json"
    newest = max(logs, key=lambda path: (path.stat().st_mtime_ns, path.name))
    text = newest.read_text(encoding="utf-8", errors="replace")
    last = "".join(text.strip().splitlines()[-1:])
    # how the command line reports an error
    if last.startswith("mist-bench "):
        return "failed", one_line(last.removeprefix("mist-bench "))
    status = "failed" if "Traceback (most recent call last)" in text else "not run"
    return status, one_line(f"no metrics.json; {newest.name} ends: {last}")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or ``None`` if there is no readable one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def source_of(config: Config, results: Path, experiment: str) -> str | None:
    """Return where the images of an experiment are from, in words; ``None`` without a manifest."""
    name = config.experiments[experiment].dataset
    source = (read_json(results / "datasets" / name / "manifest.json") or {}).get("source")
    features = config.datasets[name].features
    return f"{source}, seen as features of {features.backbone}" if source and features else source


def one_line(text: object, limit: int = 200) -> str:
    """Return ``text`` as one line of at most ``limit`` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def changed_setting(then: Mapping[str, Any], spec: RunSpec) -> str:
    """Return the first setting that a run had otherwise than ``spec``, '' if there is none.

    A setting that its config.json lacks did not exist yet, and is not compared; nor is one that
    changes no result. (``forecast.jobs.is_done`` compares all: what Snakemake trains again.)

    Args:
        then: what is in config.json of the run.
        spec: of the run, as the configuration is now.

    Returns:
        ``key: the run's -> the configuration's``.
    """
    now = spec.model_dump(mode="json")
    return next(_changes(settings.merge(now, then), now), "")


def changes_of_preset(config: Config, runs: Iterable[tuple[str, str]]) -> list[str]:
    """Return in which settings some runs differ from the same runs of the plain preset.

    Args:
        config: a preset, perhaps with the user's changes; a preset of no known name has none.
        runs: experiment and method of each.

    Returns:
        ``key: the preset's -> the run's``, or the key alone if its value is a path, a list or a
        mapping; with the methods or experiments that it holds for, if not for all.
    """
    try:
        plain = _preset(config.preset)
    except ConfigError:
        return []
    runs = [run for run in dict.fromkeys(runs) if _competes(config, *run)]
    found: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        for line in _changes_of_run(config, plain, *run):
            words = line.partition(":")[0] if re.search(r"[/\[{]", line) else line
            found.setdefault(words, []).append(run)
    return [words + _whose(config, own, runs) for words, own in found.items()]


def changed_words(config: Config, runs: Iterable[tuple[str, str]]) -> str:
    """Return ``changes_of_preset`` as a sentence of a caption, '' if there is none."""
    changes = changes_of_preset(config, runs)
    more = [f"{len(changes) - NAMED} more"] if len(changes) > NAMED else []
    words = ", ".join([*changes[:NAMED], *more])
    return f"Changed from the preset: {words}. " if words else ""


def _competes(config: Config, experiment: str, method: str) -> bool:
    setup = config.experiments.get(experiment)
    return setup is not None and method in setup.methods + setup.rivals


def _changes_of_run(config: Config, plain: Config, experiment: str, method: str) -> Iterator[str]:
    """Yield what differs in a run, in its datasets, and in the features that it sees."""
    if not _competes(plain, experiment, method):
        known = experiment in plain.experiments
        yield "not in the preset" if known else f"{experiment} is not in the preset"
        if method not in plain.methods:
            spec = settings.run_spec(config, experiment, method, config.seeds[0])
            own = json.loads(json.dumps(defaults(parameters(spec.module, "build", spec.task.kind))))
            yield from provenance.changes(own, spec.params, "params.")
        return
    specs = [settings.run_spec(one, experiment, method, config.seeds[0]) for one in (plain, config)]
    yield from _changes(*(spec.model_dump(mode="json") for spec in specs))
    trained, tested = specs[1].dataset, config.experiments[experiment].dataset
    for name in dict.fromkeys(one for one in (trained, tested) if one in plain.datasets):
        yield from _changes(*(_dataset(one, name) for one in (plain, config)), f"datasets.{name}.")


def _dataset(config: Config, name: str) -> dict[str, Any]:
    """Return all settings of a dataset and of its features, without defaults left to modules."""
    features = config.datasets[name].features and settings.feature_spec(config, name)
    spec = settings.dataset_spec(config, name).model_dump(mode="json")
    return spec | {"features": features and features.model_dump(mode="json")}


def _changes(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the settings that differ and change a result."""
    lines = provenance.changes(then, now, prefix)
    return (line for line in lines if line.partition(":")[0] not in WATCHING)


def _whose(config: Config, own: list[tuple[str, str]], runs: list[tuple[str, str]]) -> str:
    """Return in parentheses which of ``runs`` are ``own``: methods, experiments or single runs."""
    if own == runs:
        return ""
    experiments, methods = (list(dict.fromkeys(names)) for names in zip(*own, strict=True))
    labels = {method: config.methods[method].label for method in methods}
    if own == [run for run in runs if run[1] in methods]:
        return f" ({', '.join(labels.values())})"
    if own == [run for run in runs if run[0] in experiments]:
        return f" ({', '.join(experiments)})"
    return f" ({', '.join(f'{labels[method]} on {name}' for name, method in own)})"


@cache
def _preset(name: str) -> Config:
    return settings.load(SETTINGS, {"preset": name})
