"""What the figures share: the runs they show, colors, boxes, captions and files.

C channels, H and W image size; K detections of one image.
"""

import os
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from mist_bench.config.schema import Config
from mist_bench.config.targets import run_folder
from mist_bench.datasets.files import load_split
from mist_bench.evaluation.matching import Pairs, Scene, right_detections
from mist_bench.evaluation.metrics import load_predictions
from mist_bench.evaluation.reconstruction import as_unit, rmse_metrics
from mist_bench.reporting.aggregate import NO_SOURCE, changed_words, read_json, source_of

# a color-blind-safe pair (Okabe and Ito) that also differs in lightness on black
RIGHT, WRONG, TRUTH = "#56B4E9", "#E69F00", "#FFFFFF"
CROSS = "\u00d7"  # beside what is wrong, for those who do not see its color
DPI = 200
CAPTION_SIZE, LINE_HEIGHT = 8.5, 0.17  # points, inches
LETTERS_PER_INCH = 14.5  # of a caption, on average


class MissingResultError(Exception):
    """A result that a figure needs is not there."""


class Runs:
    """The runs of one experiment that a figure shows: some methods with the first seed.

    Attributes:
        setup: the experiment.
        seed: the first.
        data: folder of the dataset.
    """

    def __init__(self, config: Config, results: Path, experiment: str, *methods: str) -> None:
        setup = config.experiments.get(experiment)
        if lacking := [m for m in methods if setup is None or m not in setup.methods]:
            raise MissingResultError(f"the config does not run {lacking[0]} in {experiment}")
        self.config, self.results, self.experiment = config, results, experiment
        self.methods, self.setup, self.seed = methods, setup, config.seeds[0]
        self.data = results / "datasets" / setup.dataset

    def folder(self, method: str) -> Path:
        """Return the folder of a run."""
        return run_folder(self.results, self.experiment, method, self.seed)

    def arrays(
        self, method: str, *needed: str, file: str = "predictions.npz"
    ) -> dict[str, NDArray]:
        """Return the arrays that a run has stored.

        Raises:
            MissingResultError: naming the run, if there are none or one that is ``needed`` is not.
        """
        path = self.folder(method) / file
        run = "/".join(path.parts[-4:-1])
        if not path.exists():
            raise MissingResultError(f"{run} has no {file}")
        stored = load_predictions(path)
        if lacking := [name for name in needed if name not in stored]:
            raise MissingResultError(f"{run} stores no {lacking[0]}")
        return stored

    def truth(self, split: str = "test") -> dict[str, NDArray]:
        """Return a split of the dataset."""
        return load_split(self.data, split)

    def extent(self, method: str) -> float:
        """Return the side of the squares that a run encodes, px.

        Raises:
            MissingResultError: if the run's config.json does not say so.
        """
        path = self.folder(method) / "config.json"
        try:
            return read_json(path)["params"]["autoencoder"]["extent"]
        except (KeyError, TypeError):
            raise MissingResultError(f"{'/'.join(path.parts[-4:])} names no extent") from None

    @property
    def steps(self) -> str:
        """How long the methods were trained: ``MIST 6,500, Grid 6,500``."""
        words = []
        for method in self.methods:
            steps = (read_json(self.folder(method) / "run.json") or {}).get("steps")
            known = f"{steps:,}" if isinstance(steps, int) else "not recorded"
            words.append(f"{self.config.methods[method].label} {known}")
        return ", ".join(words)

    @property
    def source(self) -> str:
        """Where the pictures come from, in words."""
        return source_of(self.config, self.results, self.experiment) or NO_SOURCE

    @property
    def changes(self) -> str:
        """What is not the preset's, as a sentence of a caption; '' if there is none."""
        return changed_words(self.config, [(self.experiment, m) for m in self.methods])

    @property
    def origin(self) -> str:
        """The words of a caption on where all this comes from."""
        return (
            f"Preset {self.config.preset}; seed {self.seed}; training steps: {self.steps}. "
            f"{self.changes}Data: {self.source}."
        )


@dataclass(frozen=True)
class Panel:
    """One image with detections on it.

    Attributes:
        image: (H, W) or (H, W, 3), in [0, 1].
        scene: detections and ground truth.
        right: (K,) bool, which detections are right.
    """

    image: NDArray
    scene: Scene
    right: NDArray

    @classmethod
    def of(cls, image: NDArray, scene: Scene, match: Callable[[Scene], Pairs]) -> Self:
        """Return a stored (C, H, W) image with detections, right where ``match`` pairs them."""
        return cls(picture(image), scene, right_detections(scene, match))


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


def add_panel(figure: Figure, left: float, top: float, side: float) -> Axes:
    """Return new square axes ``left`` and ``top`` inches from that corner of a figure."""
    W, H = figure.get_size_inches()
    return figure.add_axes((left / W, 1 - (top + side) / H, side / W, side / H))


def draw_box(ax: Axes, box: NDArray, **style: object) -> None:
    """Draw the outline of a cxcywh box in pixels; a part outside of the axes is cut off."""
    x, y, w, h = box
    left, right, top, bottom = x - w / 2, x + w / 2, y - h / 2, y + h / 2
    ax.plot([left, right, right, left, left], [top, top, bottom, bottom, top], **style)


def draw_panel(ax: Axes, one: Panel, texts: Iterable[str], *, size: float = 9) -> None:
    """Draw an image: truths dashed, detections solid, each with its text in a corner."""
    show(ax, one.image)
    for box in one.scene.true_boxes:
        draw_box(ax, box, color=TRUTH, lw=0.9, ls=(0, (3, 2)), alpha=0.8)
    for box, text, right in zip(one.scene.boxes, texts, one.right, strict=True):
        draw_detection(ax, box, text, right=right, size=size)


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


def add_legend(
    figure: Figure,
    wrong: str,
    top: float,
    colors: tuple[str, str] = (RIGHT, WRONG),
    **style: object,
) -> None:
    """Say what the lines of right and wrong detections mean, ``top`` inches above the bottom."""
    handles = [
        Line2D([], [], color=color, label=label, **{"lw": 2} | style)
        for color, label in zip(colors, ("right", wrong), strict=True)
    ]
    handles.append(Line2D([], [], color="0.45", lw=1.2, ls=(0, (3, 2)), label="ground truth"))
    anchor = (0.5, top / figure.get_figheight())
    figure.legend(
        handles=handles, loc="upper center", bbox_to_anchor=anchor, ncols=3, frameon=False
    )


def captioned(caption: str, width: float, height: float) -> tuple[Figure, float]:
    """Return a new figure with its caption, and how high that is; ``height`` is without it.

    All are in inches.
    """
    lines = textwrap.wrap(caption, int(width * LETTERS_PER_INCH), break_on_hyphens=False)
    below = LINE_HEIGHT * len(lines)
    figure = Figure(figsize=(width, height + below))
    bottom = 0.08 / figure.get_figheight()
    figure.text(0.02, bottom, "\n".join(lines), va="bottom", fontsize=CAPTION_SIZE)
    return figure, below
