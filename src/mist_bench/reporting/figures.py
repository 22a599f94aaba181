"""Figures as PNG and PDF, from stored predictions; equal results give equal files.

H and W image size; K detections and L instances of one image.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from mist_bench.config import Config
from mist_bench.datasets.files import load_split
from mist_bench.evaluation.matching import Scene, right_detections
from mist_bench.evaluation.metrics import load_predictions as read_predictions
from mist_bench.reporting.aggregate import read_json, run_folder

# a color-blind-safe pair (Okabe and Ito) that also differs in lightness on black
RIGHT, WRONG, TRUTH = "#56B4E9", "#E69F00", "#FFFFFF"
CROSS = "\u00d7"
DPI = 200
NOT_BUILT = {
    "figure1": "the architecture is a drawing, not a result",
    "figure2": "reconstruction is not built yet",
    "figure3": "reconstruction is not built yet",
    "figure4": "the Gabor noise is not built yet",
    "figure6": "PASCAL+COCO is not built yet",
    "figure7": "the curves of several seeds are not built yet",
    "figure8": "reconstruction is not built yet",
}


class MissingResultError(Exception):
    """A result that a figure needs is not there."""


@dataclass(frozen=True)
class Panel:
    """One image with one method's detections on it.

    Attributes:
        title: printed above.
        image: (H, W) or (H, W, 3), in [0, 1].
        scene: detections and ground truth.
        right: (K,) bool, which detections are right.
    """

    title: str
    image: NDArray
    scene: Scene
    right: NDArray


def write_figure(name: str, config: Config, results: Path, out: Path) -> None:
    """Write {name}.png and {name}.pdf to the folder ``out``.

    A figure whose results are not there is a page that says so.

    Args:
        name: figure1 ... figure8.
        config: names experiments, methods, seeds and the preset.
        results: the preset's folder.
        out: folder of the figures.

    Raises:
        ValueError: for an unknown figure.
    """
    if name not in DRAWN and name not in NOT_BUILT:
        raise ValueError(f"no figure {name!r}; known: {', '.join(sorted({*DRAWN, *NOT_BUILT}))}")
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "pdf.fonttype": 42}):
        if name in DRAWN:
            try:
                figure = DRAWN[name](config, results)
            except MissingResultError as error:
                figure = message(name, f"not run — {error}")
        else:
            figure = message(name, f"not run — not built yet: {NOT_BUILT[name]}")
        save(figure, out / name)


def save(figure: Figure, stem: Path) -> None:
    """Write a figure as PNG and PDF without a time stamp, each whole or not at all."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for kind, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
        temporary = stem.with_name(f".{stem.name}.{os.getpid()}.{kind}")
        figure.savefig(temporary, format=kind, dpi=DPI, metadata=metadata)
        temporary.replace(stem.with_name(f"{stem.name}.{kind}"))


def message(name: str, text: str) -> Figure:
    """Return a page that says why there is no picture."""
    figure = Figure(figsize=(6, 1.6))
    words = f"Figure {name.removeprefix('figure')}: {text}"
    figure.text(0.5, 0.5, textwrap.fill(words, 70), ha="center", va="center", fontsize=11)
    return figure


def repeats(labels: Sequence[NDArray], times: int) -> NDArray:
    """Return the indices of the images in which some label occurs at least ``times`` times.

    Args:
        labels: (L,) int64 of each image.
        times: smallest number of occurrences.
    """
    most = [np.bincount(one).max() if len(one) else 0 for one in labels]
    return np.flatnonzero(np.array(most) >= times)


def figure5(config: Config, results: Path) -> Figure:
    """Return Figure 5: MIST's and channel-wise detections on the same images of MNIST-hard.

    The images are the first two of the test set in which some digit occurs at least three times
    (the paper's right example has three sixes), for any seed and method.
    """
    examples, times = 2, 3
    experiment, methods = "mnist_hard_classification", ("mist", "channelwise")
    seed = config.seeds[0]
    setup = config.experiments.get(experiment)
    if lacking := [m for m in methods if setup is None or m not in setup.methods]:
        raise MissingResultError(f"the config does not run {lacking[0]} in {experiment}")
    stored = {m: load_predictions(run_folder(results, experiment, m, seed)) for m in methods}
    dataset = results / "datasets" / setup.dataset
    truth = load_split(dataset, "test")
    labels = [one[:n] for one, n in zip(truth["labels"], truth["counts"], strict=True)]
    chosen = repeats(labels, times)[:examples]
    if len(chosen) == 0:
        raise MissingResultError(f"no test image has a digit {times} times")
    panels = [
        [
            panel(f"{config.methods[m].label}, test image {i}", truth, stored[m], int(i))
            for m in methods
        ]
        for i in chosen
    ]
    manifest = read_json(dataset / "manifest.json") or {}
    steps = ", ".join(
        f"{config.methods[m].label} {_steps(run_folder(results, experiment, m, seed))}"
        for m in methods
    )
    return draw(
        panels,
        f"Figure 5. Detections on MNIST-hard. Preset {config.preset}; seed {seed}; training steps: "
        f"{steps}. Data: {manifest.get('source', 'no manifest, hence not known')}. "
        f"Images: the first {examples} of the test set in which some digit occurs at least "
        f"{times} times, numbered from 0. "
        "Right: IoU of at least .5 and the right label, one detection per digit.",
    )


def load_predictions(folder: Path) -> dict[str, NDArray]:
    """Return the arrays of predictions.npz.

    Raises:
        MissingResultError: naming the run, if there are none.
    """
    path = folder / "predictions.npz"
    if not path.exists():
        run = "/".join(folder.parts[-3:])
        raise MissingResultError(f"{run} has no predictions.npz")
    return read_predictions(path)


def _steps(folder: Path) -> str:
    """Return the training steps of a run, in words."""
    steps = (read_json(folder / "run.json") or {}).get("steps")
    return f"{steps:,}" if isinstance(steps, int) else "not recorded"


def panel(title: str, truth: dict[str, NDArray], stored: dict[str, NDArray], i: int) -> Panel:
    """Return what is drawn of test image ``i`` for one method."""
    k, n = stored["counts"][i], truth["counts"][i]
    scene = Scene(
        *(stored[key][i, :k] for key in ("boxes", "scores", "labels")),
        *(truth[key][i, :n] for key in ("boxes", "labels")),
    ).best(int(n))
    image = truth["images"][i]
    image = image / 255 if image.dtype == np.uint8 else image
    image = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
    right = right_detections(scene)
    return Panel(f"{title}: {right.sum()} of {n} right", image, scene, right)


def draw(rows: Sequence[Sequence[Panel]], caption: str) -> Figure:
    """Return the panels as a grid, with a legend and the caption below."""
    width, height = 3.4, 3.6
    lines = textwrap.wrap(caption, int(width * len(rows[0]) * 14.5))
    below = 0.45 + 0.17 * len(lines)
    size = (width * len(rows[0]), height * len(rows) + below)
    figure = Figure(figsize=size)
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for row, panels in zip(axes, rows, strict=True):
        for ax, one in zip(row, panels, strict=True):
            draw_panel(ax, one)
    figure.subplots_adjust(0.01, below / size[1], 0.99, 1 - 0.3 / size[1], 0.03, 0.12)
    handles = [
        Line2D([], [], color=RIGHT, lw=2, label="right"),
        Line2D([], [], color=WRONG, lw=2, label=f"wrong (label marked {CROSS})"),
        Line2D([], [], color="0.45", lw=1.2, ls=(0, (3, 2)), label="ground truth"),
    ]
    anchor = (0.5, (below - 0.05) / size[1])
    figure.legend(
        handles=handles, loc="upper center", bbox_to_anchor=anchor, ncols=3, frameon=False
    )
    figure.text(0.02, 0.08 / size[1], "\n".join(lines), va="bottom", fontsize=8.5)
    return figure


def draw_panel(ax: Axes, one: Panel) -> None:
    """Draw one image: truths dashed, detections solid, each with its label in a corner."""
    height, width = one.image.shape[:2]
    ax.imshow(one.image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for x, y, w, h in one.scene.true_boxes:
        _rectangle(ax, x, y, w, h, color=TRUTH, lw=0.9, ls=(0, (3, 2)), alpha=0.8)
    outline = [withStroke(linewidth=2, foreground="black")]
    for box, label, right in zip(one.scene.boxes, one.scene.labels, one.right, strict=True):
        color = RIGHT if right else WRONG
        x, y, w, h = box
        _rectangle(ax, x, y, w, h, color=color, lw=1.6)
        text = str(label) if right else f"{label}{CROSS}"
        place = (np.clip(x - w / 2 + 0.5, 0, width - 6), np.clip(y - h / 2 + 0.5, 0, height - 6))
        ax.text(*place, text, color=color, weight="bold", va="top", path_effects=outline)
    ax.set(
        title=one.title, xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5)
    )


def _rectangle(ax: Axes, x: float, y: float, w: float, h: float, **style: object) -> None:
    left, right, top, bottom = x - w / 2, x + w / 2, y - h / 2, y + h / 2
    ax.plot([left, right, right, left, left], [top, top, bottom, bottom, top], **style)


DRAWN: dict[str, Callable[[Config, Path], Figure]] = {"figure5": figure5}
