"""Figures 3 and 8: what MIST detects and how it encodes each patch.

C channels, H and W image size; K detections of one image, p patch side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_letters

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from mist_bench.boxes import whole_pixels
from mist_bench.config.schema import Config
from mist_bench.evaluation.matching import Arrays, match_boxes, right_detections, stored_scene
from mist_bench.evaluation.reconstruction import as_unit
from mist_bench.reporting.figures.parts import (
    CROSS,
    Panel,
    Runs,
    add_legend,
    add_panel,
    captioned,
    draw_panel,
    image_rmse,
    picture,
    show,
)

MIST = "mist"
LEGEND = 0.42  # inches, of its height
RULE = "Right: IoU of at least .5 with a digit's box, one detection per digit"


@dataclass(frozen=True)
class Example(Panel):
    """What MIST makes of one test image; detections are best first, right where a digit is.

    Attributes:
        index: number in the test set.
        synthesis: as ``image``, not clipped.
        rmse: its error.
        before: K patches (p, p) or (p, p, 3) of the image under the detections.
        after: what the auto-encoder makes of each.
    """

    index: int
    synthesis: NDArray
    rmse: float
    before: list[NDArray]
    after: list[NDArray]

    @property
    def counted(self) -> str:
        """How many detections are right, in words."""
        return f"{self.right.sum()} of {len(self.scene.true_boxes)} right"


def figure3(config: Config, results: Path) -> Figure:
    """Return Figure 3: what MIST detects on MNIST-hard and how it encodes each patch."""
    side, gap, label = 1.75, 0.08, 0.5  # inches
    examples, zoom, words = mist_examples(config, results, "mnist_hard_reconstruction", 2)
    width = 3 * side + 2 * gap
    caption = (
        "Figure 3. MIST as an auto-encoder of MNIST-hard: input, detections and synthesis; below, "
        f"the square around each detection, {zoom:g} times as wide as its box, before and after "
        "the auto-encoder, from the most certain detection to the least. "
        f"{words} {RULE}; MIST is told neither boxes nor digits."
    )
    most = max(len(one.before) for one in examples)
    patch = min(0.6, (width - label) / max(most, 1))
    height = 0.35 + side + 0.4 + 2 * patch + LEGEND
    figure, below = captioned(caption, 2 * width + 0.6, height)
    for column, one in enumerate(examples):
        left = 0.1 + column * (width + 0.4)
        axes = [add_panel(figure, left + k * (side + gap), 0.35, side) for k in range(3)]
        draw_example(axes, one, lettered=True)
        titles = (
            f"Test image {one.index}",
            f"Detections: {one.counted}",
            f"Synthesis: RMSE {one.rmse:.3f}",
        )
        for ax, title in zip(axes, titles, strict=True):
            ax.set_title(title, fontsize=9.5)
        draw_patches(figure, one, left + label, 0.35 + side + 0.35, patch)
    add_legend(figure, f"wrong (letter marked {CROSS})", LEGEND + below - 0.05)
    return figure


def draw_patches(figure: Figure, one: Example, left: float, top: float, side: float) -> None:
    """Draw the patches before and, below, after the auto-encoder; places and sides in inches."""
    for row, (name, patches) in enumerate({"before": one.before, "after": one.after}.items()):
        for k, image in enumerate(patches):
            ax = add_panel(figure, left + k * side, top + row * side, 0.95 * side)
            show(ax, image)
            if k == 0:
                ax.set_ylabel(name, rotation=0, ha="right", va="center")
            if row == 0:
                ax.set_title(letter(k) + CROSS * (not one.right[k]), fontsize=8, pad=2)


def figure8(config: Config, results: Path) -> Figure:
    """Return Figure 8: what MIST makes of digits that are crowded in one part of the image."""
    side, gap = 1.75, 0.08  # inches
    examples, _, words = mist_examples(config, results, "mnist_uneven_reconstruction", 4)
    row_height = side + 0.25
    figure, below = captioned(
        f"Figure 8. MIST as an auto-encoder of digits at uneven distances. {words} {RULE}.",
        0.3 + len(examples) * (side + gap),
        0.3 + 3 * row_height + LEGEND,
    )
    for column, one in enumerate(examples):
        left = 0.3 + column * (side + gap)
        axes = [add_panel(figure, left, 0.3 + r * row_height, side) for r in range(3)]
        draw_example(axes, one, lettered=False)
        axes[0].set_title(f"Test image {one.index}")
        axes[1].set_xlabel(one.counted, labelpad=2)
        axes[2].set_xlabel(f"RMSE {one.rmse:.3f}", labelpad=2)
        if column == 0:
            for ax, name in zip(axes, ("Input", "Detections", "Synthesis"), strict=True):
                ax.set_ylabel(name)
    add_legend(figure, f"wrong (marked {CROSS})", LEGEND + below - 0.05)
    return figure


def draw_example(axes: Sequence[Axes], one: Example, *, lettered: bool) -> None:
    """Draw input, detections and synthesis."""
    show(axes[0], one.image)
    letters = [letter(k) if lettered else "" for k in range(len(one.right))]
    draw_panel(axes[1], one, letters, size=7)
    show(axes[2], one.synthesis)


def letter(k: int) -> str:
    """Return how detection ``k`` is called; a number would look like the digit that is read."""
    return ascii_letters[k % len(ascii_letters)]


def mist_examples(
    config: Config, results: Path, experiment: str, count: int
) -> tuple[list[Example], float, str]:
    """Return the first ``count`` test images of MIST's run.

    Returns:
        The examples, the side of the encoded squares in sides of a box, and the caption's words on
        the run.

    Raises:
        MissingResultError: if the run or a part of it is not there.
    """
    runs = Runs(config, results, experiment, MIST)
    stored = runs.arrays(MIST, "reconstructions", "patches")
    zoom = runs.extent(MIST) / config.datasets[runs.setup.dataset].box_size
    truth = runs.truth()
    images = range(min(count, len(truth["images"])))
    examples = [example(i, truth, stored, zoom) for i in images]
    words = f"{runs.origin} Images: the first {len(examples)} of the test set, numbered from 0."
    return examples, zoom, words


def example(i: int, truth: Arrays, stored: Arrays, zoom: float) -> Example:
    """Return what is drawn of test image ``i``; encoded squares are ``zoom`` times their boxes."""
    scene = stored_scene(stored, truth, i)
    image, decoded = truth["images"][i], stored["patches"][i, : len(scene.boxes)]
    squares = encoded_squares(scene.boxes, zoom, decoded.shape[-1])
    before = sample_squares(as_unit(image), squares, decoded.shape[-1])
    return Example(
        picture(image),
        scene,
        right_detections(scene, match_boxes),
        index=i,
        synthesis=picture(stored["reconstructions"][i]),
        rmse=image_rmse(image, stored["reconstructions"][i]),
        before=[picture(one) for one in before],
        after=[picture(one) for one in decoded],
    )


def encoded_squares(boxes: NDArray, zoom: float, size: int) -> NDArray:
    """Return the (K, 4) squares that the auto-encoder is given around (K, 4) boxes, cxcywh in px.

    As MIST has them in every preset: at whole pixels where there is a sample for each.

    Args:
        boxes: cxcywh in px.
        zoom: side of a square over that of its box.
        size: p, samples per side.
    """
    squares = boxes * [1, 1, zoom, zoom]
    if np.allclose(squares[:, 2:], size - 1):
        squares[:, :2] = whole_pixels(squares[:, :2], size)
    return squares


def sample_squares(image: NDArray, squares: NDArray, size: int) -> NDArray:
    """Return the patches under ``squares``, as ``models/sampler.py`` takes them.

    Args:
        image: (C, H, W).
        squares: (K, 4) cxcywh in pixels; a pixel's center is an integer, the outer samples lie on
            the edge.
        size: p, samples per side.

    Returns:
        (K, C, p, p), bilinear, 0 outside of the image.
    """
    steps = np.linspace(-0.5, 0.5, size)
    x, y, width, height = squares.astype(float).T[..., None]  # (K, 1) each
    columns, rows = (x + width * steps)[:, None], (y + height * steps)[:, :, None]
    places = np.broadcast_arrays(rows, columns)  # (K, p, p) each
    sampled = [map_coordinates(one, places, order=1, mode="grid-constant") for one in image]
    return np.stack(sampled, axis=1)
