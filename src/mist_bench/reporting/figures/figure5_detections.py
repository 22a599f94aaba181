"""Figure 5: detections of classified digits, right and wrong ones.

H and W image size; K detections and L instances of one image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mist_bench.config.schema import Config
from mist_bench.evaluation.matching import Arrays, match_labeled_boxes, stored_scene
from mist_bench.reporting.figures.parts import (
    CROSS,
    MissingResultError,
    Panel,
    Runs,
    add_legend,
    captioned,
    draw_panel,
)

EXPERIMENT, METHODS = "mnist_hard_classification", ("mist", "channelwise")  # from the left
EXAMPLES, TIMES = 2, 3  # images, in each of which some digit occurs at least that often


def figure5(config: Config, results: Path) -> Figure:
    """Return Figure 5: MIST's and channel-wise detections on the same images of MNIST-hard.

    The images are the first two of the test set in which some digit occurs at least three times
    (the paper's right example has three sixes), for any seed and method.
    """
    runs = Runs(config, results, EXPERIMENT, *METHODS)
    stored, truth = {m: runs.arrays(m) for m in METHODS}, runs.truth()
    labels = [one[:n] for one, n in zip(truth["labels"], truth["counts"], strict=True)]
    chosen = repeats(labels, TIMES)[:EXAMPLES]
    if len(chosen) == 0:
        raise MissingResultError(f"no test image has a digit {TIMES} times")
    rows = {
        int(i): {config.methods[m].label: panel(truth, stored[m], int(i)) for m in METHODS}
        for i in chosen
    }
    return draw(
        rows,
        f"Figure 5. Detections on MNIST-hard. {runs.origin} "
        f"Images: the first {EXAMPLES} of the test set in which some digit occurs at least "
        f"{TIMES} times, numbered from 0. "
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


def panel(truth: Arrays, stored: Arrays, i: int) -> Panel:
    """Return what is drawn of test image ``i`` for one method."""
    scene = stored_scene(stored, truth, i)
    return Panel.of(truth["images"][i], scene.best(len(scene.true_boxes)), match_labeled_boxes)


def draw(rows: Mapping[int, Mapping[str, Panel]], caption: str) -> Figure:
    """Return one row of panels per image, with a legend and the caption below."""
    width, height, legend = 3.4, 3.6, 0.45  # inches
    figure, below = captioned(caption, width * len(METHODS), height * len(rows) + legend)
    axes, H = figure.subplots(len(rows), len(METHODS), squeeze=False), figure.get_figheight()
    for row, (i, panels) in zip(axes, rows.items(), strict=True):
        for ax, (label, one) in zip(row, panels.items(), strict=True):
            draw_panel(ax, one, map(str, one.scene.labels))
            counted = f"{one.right.sum()} of {len(one.scene.true_boxes)} right"
            ax.set_title(f"{label}, test image {i}: {counted}")
    figure.subplots_adjust(0.01, (legend + below) / H, 0.99, 1 - 0.3 / H, 0.03, 0.12)
    add_legend(figure, f"wrong (label marked {CROSS})", legend + below - 0.05)
    return figure
