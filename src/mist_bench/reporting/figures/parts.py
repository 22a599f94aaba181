"""What the figures share: colors, stored predictions, boxes, captions and files.

C channels, H and W image size; K detections of one image.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from mist_bench.config.schema import Config
from mist_bench.config.targets import run_folder
from mist_bench.evaluation.metrics import load_predictions as read_predictions
from mist_bench.evaluation.reconstruction import as_unit, rmse_metrics
from mist_bench.reporting.aggregate import read_json

# a color-blind-safe pair (Okabe and Ito) that also differs in lightness on black
RIGHT, WRONG, TRUTH = "#56B4E9", "#E69F00", "#FFFFFF"
CROSS = "\u00d7"  # beside what is wrong, for those who do not see its color
DPI = 200
CAPTION_SIZE, LINE_HEIGHT = 8.5, 0.17  # points, inches
LETTERS_PER_INCH = 14.5  # of a caption, on average


class MissingResultError(Exception):
    """A result that a figure needs is not there."""


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


def load_predictions(folder: Path, *needed: str) -> dict[str, NDArray]:
    """Return the arrays of a run's predictions.npz.

    Raises:
        MissingResultError: naming the run, if there are none or one that is ``needed`` is not.
    """
    path, run = folder / "predictions.npz", "/".join(folder.parts[-3:])
    if not path.exists():
        raise MissingResultError(f"{run} has no predictions.npz")
    stored = read_predictions(path)
    if lacking := [name for name in needed if name not in stored]:
        raise MissingResultError(f"{run} stores no {lacking[0]}")
    return stored


def image_rmse(image: NDArray, reconstruction: NDArray) -> float:
    """Return the root mean square error of one (C, H, W) reconstruction, in [0, 1] units."""
    return rmse_metrics(image[None], reconstruction[None])["rmse"]


def picture(image: NDArray) -> NDArray:
    """Return a stored (C, H, W) image as (H, W) or (H, W, 3) floats, 1 for uint8 255."""
    unit = as_unit(image)
    return unit[0] if len(unit) == 1 else np.moveaxis(unit, 0, -1)


def show(ax: Axes, image: NDArray) -> None:
    """Draw an (H, W) or (H, W, 3) image in [0, 1], pixel by pixel and without ticks."""
    ax.imshow(np.clip(image, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    height, width = image.shape[:2]
    ax.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def add_panel(
    figure: Figure, left: float, top: float, *, width: float, height: float | None = None
) -> Axes:
    """Return new axes ``left`` and ``top`` inches from that corner of a figure; square if alone."""
    height = width if height is None else height
    W, H = figure.get_size_inches()
    return figure.add_axes((left / W, 1 - (top + height) / H, width / W, height / H))


def draw_box(ax: Axes, box: NDArray, **style: object) -> None:
    """Draw the outline of a cxcywh box in pixels; a part outside of the axes is cut off."""
    x, y, w, h = box
    left, right, top, bottom = x - w / 2, x + w / 2, y - h / 2, y + h / 2
    ax.plot([left, right, right, left, left], [top, top, bottom, bottom, top], **style)


def draw_truth(ax: Axes, boxes: NDArray) -> None:
    """Draw (L, 4) true boxes, dashed."""
    for box in boxes:
        draw_box(ax, box, color=TRUTH, lw=0.9, ls=(0, (3, 2)), alpha=0.8)


def draw_detection(ax: Axes, box: NDArray, text: str, *, right: bool, size: float = 9) -> None:
    """Draw one detection on an image, with ``text`` in its corner and a cross if it is wrong."""
    bottom, width = ax.get_ylim()[0] + 0.5, ax.get_xlim()[1] + 0.5
    color = RIGHT if right else WRONG
    draw_box(ax, box, color=color, lw=1.6)
    x, y, w, h = box
    place = (np.clip(x - w / 2 + 0.5, 0, width - 6), np.clip(y - h / 2 + 0.5, 0, bottom - 6))
    outline = [withStroke(linewidth=2, foreground="black")]
    words = text if right else f"{text}{CROSS}"
    style = {"color": color, "weight": "bold", "fontsize": size, "path_effects": outline}
    ax.text(*place, words, va="top", **style)


def add_legend(figure: Figure, wrong: str, top: float) -> None:
    """Say what the boxes' lines mean, ``top`` inches above the bottom of a figure."""
    handles = [
        Line2D([], [], color=RIGHT, lw=2, label="right"),
        Line2D([], [], color=WRONG, lw=2, label=wrong),
        Line2D([], [], color="0.45", lw=1.2, ls=(0, (3, 2)), label="ground truth"),
    ]
    anchor = (0.5, top / figure.get_figheight())
    figure.legend(
        handles=handles, loc="upper center", bbox_to_anchor=anchor, ncols=3, frameon=False
    )


def steps_of(config: Config, results: Path, experiment: str, methods: Sequence[str]) -> str:
    """Return how long methods were trained with the first seed: ``MIST 6,500, Grid 6,500``."""
    words = []
    for method in methods:
        record = read_json(run_folder(results, experiment, method, config.seeds[0]) / "run.json")
        steps = (record or {}).get("steps")
        known = f"{steps:,}" if isinstance(steps, int) else "not recorded"
        words.append(f"{config.methods[method].label} {known}")
    return ", ".join(words)


def source_of(dataset: Path) -> str:
    """Return where the pictures of the dataset in a folder come from, in words."""
    manifest = read_json(dataset / "manifest.json") or {}
    return manifest.get("source", "no manifest, hence not known")


def caption_lines(caption: str, width: float) -> list[str]:
    """Return a caption in lines for a figure of ``width`` inches."""
    return textwrap.wrap(caption, int(width * LETTERS_PER_INCH), break_on_hyphens=False)


def add_caption(figure: Figure, lines: Sequence[str]) -> None:
    """Write the lines at the bottom of a figure; they are ``LINE_HEIGHT`` inches high each."""
    bottom = 0.08 / figure.get_figheight()
    figure.text(0.02, bottom, "\n".join(lines), va="bottom", fontsize=CAPTION_SIZE)
