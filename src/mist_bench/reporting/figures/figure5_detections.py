"""Figure 5: detections of classified digits, right and wrong ones.

H and W image size; K detections and L instances of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mist_bench.config.schema import Config
from mist_bench.config.targets import run_folder
from mist_bench.datasets.files import load_split
from mist_bench.evaluation.matching import Scene, right_detections
from mist_bench.reporting.figures.parts import (
    CROSS,
    LINE_HEIGHT,
    MissingResultError,
    add_caption,
    add_legend,
    caption_lines,
    draw_detection,
    draw_truth,
    load_predictions,
    picture,
    show,
    source_of,
    steps_of,
)


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
    return draw(
        panels,
        f"Figure 5. Detections on MNIST-hard. Preset {config.preset}; seed {seed}; training steps: "
        f"{steps_of(config, results, experiment, methods)}. Data: {source_of(dataset)}. "
        f"Images: the first {examples} of the test set in which some digit occurs at least "
        f"{times} times, numbered from 0. "
        "Right: IoU of at least .5 and the right label, one detection per digit.",
    )


def repeats(labels: Sequence[NDArray], times: int) -> NDArray:
    """Return the indices of the images in which some label occurs at least ``times`` times.

    Args:
        labels: (L,) int64 of each image.
        times: smallest number of occurrences.
    """
    most = [np.bincount(one).max() if len(one) else 0 for one in labels]
    return np.flatnonzero(np.array(most) >= times)


def panel(title: str, truth: dict[str, NDArray], stored: dict[str, NDArray], i: int) -> Panel:
    """Return what is drawn of test image ``i`` for one method."""
    k, n = stored["counts"][i], truth["counts"][i]
    scene = Scene(
        *(stored[key][i, :k] for key in ("boxes", "scores", "labels")),
        *(truth[key][i, :n] for key in ("boxes", "labels")),
    ).best(int(n))
    right = right_detections(scene)
    title = f"{title}: {right.sum()} of {n} right"
    return Panel(title, picture(truth["images"][i]), scene, right)


def draw(rows: Sequence[Sequence[Panel]], caption: str) -> Figure:
    """Return the panels as a grid, with a legend and the caption below."""
    width, height = 3.4, 3.6
    lines = caption_lines(caption, width * len(rows[0]))
    below = 0.45 + LINE_HEIGHT * len(lines)
    size = (width * len(rows[0]), height * len(rows) + below)
    figure = Figure(figsize=size)
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for row, panels in zip(axes, rows, strict=True):
        for ax, one in zip(row, panels, strict=True):
            draw_panel(ax, one)
    figure.subplots_adjust(0.01, below / size[1], 0.99, 1 - 0.3 / size[1], 0.03, 0.12)
    add_legend(figure, f"wrong (label marked {CROSS})", below - 0.05)
    add_caption(figure, lines)
    return figure


def draw_panel(ax: Axes, one: Panel) -> None:
    """Draw one image: truths dashed, detections solid, each with its label in a corner."""
    show(ax, one.image)
    draw_truth(ax, one.scene.true_boxes)
    for box, label, right in zip(one.scene.boxes, one.scene.labels, one.right, strict=True):
        draw_detection(ax, box, str(label), right=right)
    ax.set_title(one.title)
