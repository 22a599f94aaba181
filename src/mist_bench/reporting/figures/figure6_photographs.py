"""Figure 6: objects that MIST and Xie20 find and name in PASCAL+COCO, right and wrong ones.

N images, K detections and L instances of one image, H and W its size.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from mist_bench.config.schema import Config
from mist_bench.datasets.photographs.voc import VOC_CLASSES
from mist_bench.evaluation.detection import without_background
from mist_bench.evaluation.matching import Arrays, match_labeled_centers, stored_scene
from mist_bench.reporting.figures.parts import (
    CROSS,
    TRUTH,
    MissingResultError,
    Panel,
    Runs,
    add_legend,
    add_panel,
    captioned,
    draw_box,
    show,
)

EXPERIMENT, METHODS = "pascal_coco_classification", ("mist", "soft_topk")  # from the top
PAIRS, SINGLES = 4, 2  # images with two objects of different classes, and with one
# the paper's green and red, in the shades that color-blind readers tell apart (Okabe and Ito)
FOUND, FALSE = "#009E73", "#D55E00"


def figure6(config: Config, results: Path) -> Figure:
    """Return Figure 6: the same test images with what MIST (top) and Xie20 (bottom) find.

    The images are the first ``PAIRS`` of the test set with two objects of different classes and
    the first ``SINGLES`` with one object, for any seed and method.

    Raises:
        MissingResultError: if a run is not there, or no image is of either kind.
    """
    runs = Runs(config, results, EXPERIMENT, *METHODS)
    stored, truth = {m: runs.arrays(m) for m in METHODS}, runs.truth()
    chosen = examples(truth["counts"], truth["labels"])
    if len(chosen) == 0:
        raise MissingResultError("no test image has one object, or two of different classes")
    background = config.datasets[runs.setup.dataset].background
    rows = {
        config.methods[m].label: [panel(truth, stored[m], int(i), background) for i in chosen]
        for m in METHODS
    }
    return draw(
        rows,
        [f"test image {i}" for i in chosen],
        f"Figure 6. Detections on PASCAL+COCO. {runs.origin} "
        f"Images: the first {PAIRS} of the test set with two objects of different classes and the "
        f"first {SINGLES} with one object, as far as there are, numbered from 0. "
        "Right: the center (+) is inside the true box and the label is equal, one detection per "
        "object. The boxes of all detections have one size, which is not learned; detections of "
        "the class background are not drawn.",
    )


def examples(counts: NDArray, labels: NDArray) -> NDArray:
    """Return the indices of the images to show, by a rule that looks at no prediction.

    Args:
        counts: (N,) instances of each image.
        labels: (N, L) classes, anything beyond the count.

    Returns:
        (M,) the first ``PAIRS`` with two instances of different classes, then the first
        ``SINGLES`` with one; fewer where there are not as many.
    """
    pairs = np.zeros(len(counts), bool)
    if labels.shape[1] > 1:
        pairs = (counts == 2) & (labels[:, 0] != labels[:, 1])
    return np.concatenate([np.flatnonzero(pairs)[:PAIRS], np.flatnonzero(counts == 1)[:SINGLES]])


def panel(truth: Arrays, stored: Arrays, i: int, background: int | None) -> Panel:
    """Return what is drawn of test image ``i`` for one method: nothing of the background."""
    scene = without_background(stored_scene(stored, truth, i), background)
    return Panel.of(truth["images"][i], scene, match_labeled_centers)


def draw(rows: Mapping[str, Sequence[Panel]], titles: Sequence[str], caption: str) -> Figure:
    """Return one row of panels per method, with titles above, a legend and the caption below."""
    side, gap, row_label, title, under, legend = 2.1, 0.08, 0.25, 0.3, 0.27, 0.4  # inches
    height = title + len(rows) * (side + under) + legend + 0.1
    figure, _ = captioned(caption, row_label + len(titles) * (side + gap), height)
    for r, (label, panels) in enumerate(rows.items()):
        for c, one in enumerate(panels):
            left, top = row_label + c * (side + gap), title + r * (side + under)
            ax = add_panel(figure, left, top, side)
            draw_panel(ax, one)
            if r == 0:
                ax.set_title(titles[c])
            if c == 0:
                ax.set_ylabel(label, fontsize=11)
    top = figure.get_figheight() - title - len(rows) * (side + under)
    wrong, center = f"wrong (name marked {CROSS})", {"marker": "+", "ms": 8, "mew": 1.8}
    add_legend(figure, wrong, top, (FOUND, FALSE), **center)
    return figure


def draw_panel(ax: Axes, one: Panel) -> None:
    """Draw one image: truths dashed, detections solid, and below how many are right.

    Names of neighbors would hide each other in one place: those of detections are at outer corners,
    above and below in turn, those of truths at inner ones.
    """
    show(ax, one.image)
    scene, outline = one.scene, [withStroke(linewidth=2.4, foreground="black")]
    for box, label in zip(scene.true_boxes, scene.true_labels, strict=True):
        draw_box(ax, box, color=TRUTH, lw=1.1, ls=(0, (3, 2)), path_effects=outline)
        style = {"color": TRUTH, "path_effects": outline}
        name(ax, box, VOC_CLASSES[label], outer=False, edge="bottom", **style)
    found = zip(scene.boxes, scene.labels, one.right, cycle(("top", "bottom")), strict=False)
    for box, label, right, edge in found:
        color = FOUND if right else FALSE
        draw_box(ax, box, color=color, lw=1.8, path_effects=outline)
        ax.plot(*box[:2], "+", color=color, ms=8, mew=1.8, path_effects=outline)
        words = VOC_CLASSES[label] + ("" if right else CROSS)
        plate = {"facecolor": color, "edgecolor": "none", "pad": 1}
        style = {"color": "white", "weight": "bold", "bbox": plate}
        name(ax, box, words, outer=True, edge=edge, **style)
    right, wrong = int(one.right.sum()), int((~one.right).sum())
    words = f"{right} of {len(scene.true_boxes)} found"
    ax.set_xlabel(f"{words}, {wrong} wrong" if wrong else words, labelpad=2)


def name(ax: Axes, box: NDArray, words: str, *, outer: bool, edge: str, **style: object) -> None:
    """Write ``words`` inside the image, from a corner of a box toward its middle.

    Args:
        ax: with an image on it.
        box: (4,) cxcywh, px.
        words: in this size, no more than .35 of the panel wide, as every class is.
        outer: at the corner nearer to the image's side, instead of the other one.
        edge: ``top`` or ``bottom``.
        style: keywords of the text.
    """
    x, y, w, h = box
    right, bottom = ax.get_xlim()[1], ax.get_ylim()[0]
    if (x < right / 2) == outer:
        place = {"x": np.clip(x - w / 2, 0, 0.65 * right), "ha": "left"}
    else:
        place = {"x": np.clip(x + w / 2, 0.35 * right, right), "ha": "right"}
    height = y - h / 2 if edge == "top" else y + h / 2
    ax.text(y=np.clip(height, 0, bottom), s=words, va=edge, fontsize=7, **place, **style)
