"""Pictures of benchmarks: where the time goes, and how it grows."""

import math
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mist_bench.bench.records import Look, Point, Result, Row, three_digits

# color-blind safe (Okabe and Ito), each with its own marker
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v")
AXES = {
    "instances": "patches and objects in an image",
    "canvas": "side of the canvas, px",
    "images": "images in the split",
    "locations": "locations to select from, N",
}
QUANTITIES = {"cpu_time": "processor seconds per image", "memory": "memory per image, MiB"}


def draw(found: Result, caption: str) -> Figure:
    """Return the picture of a benchmark's rows, or of the curve that they are read off."""
    if "curve" in found.more:
        figure = draw_learning(found.more["curve"], found.rows)
    else:
        figure = (draw_scaling if isinstance(found.rows[0], Point) else draw_stages)(found.rows)
    width = int(figure.get_size_inches()[0] * 16)  # letters
    figure.supxlabel("\n".join(textwrap.wrap(caption, width)), fontsize=8, color="0.3")
    return figure


def draw_stages(rows: Sequence[Row]) -> Figure:
    """Return the times of each stage with their least and most, on the clock and of the core."""
    found = {(row.stage, row.quantity): row for row in rows}
    stages = [row.stage for row in rows if row.quantity == "wall_time"]
    figure = Figure(figsize=(8, 1.8 + 0.34 * len(stages)), layout="constrained")
    ax = figure.subplots()
    wall, cpu = ([found[one, name] for one in stages] for name in ("wall_time", "cpu_time"))
    places, least, most = (
        range(len(stages)),
        [one.least for one in wall],
        [one.most for one in wall],
    )
    ax.hlines(places, least, most, COLORS[0], lw=1.5, capstyle="projecting", zorder=1)
    ax.plot([one.value for one in wall], places, "o", color=COLORS[0], label="wall")
    ax.plot([one.value for one in cpu], places, "|", color=COLORS[1], ms=12, label="processor")
    for place, one in enumerate(wall):
        ax.text(one.most * 1.25, place, _numbers(one.stage, found), va="center", fontsize=8)
    low, high = min(one.least for one in cpu), max(most)
    ax.set(xscale="log", xlim=(low / 2, high * (high / low) ** 0.6 * 4))  # room for the numbers
    ax.set_yticks(places, stages)
    ax.set_ylim(len(stages) - 0.5, -0.5)
    ax.set_xlabel("seconds per call; dot: median, line: least to most")
    ax.grid(axis="x", color="0.9", lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure


def _numbers(stage: str, found: Mapping[tuple[str, str], Row]) -> str:
    """Return what is written beside a stage: time, image rate, use of the core."""
    texts = [f"{three_digits(1e3 * found[stage, 'wall_time'].value)} ms"]
    if (stage, "image_rate") in found:
        texts.append(f"{three_digits(found[stage, 'image_rate'].value)} images/s")
    if (stage, "fraction_of_core") in found:
        texts.append(f"{found[stage, 'fraction_of_core'].value:.0%} of the core")
    return ", ".join(texts)


def draw_learning(looks: Sequence[Look], rows: Sequence[Row]) -> Figure:
    """Return the metrics on val against processor seconds, and where each goal was first seen."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    ax = figure.subplots()
    seconds = [look.seconds for look in looks]
    names = {"both": "Both", "iou50": "IOU 50%", "classification": "Classif."}
    for (name, label), color, marker in zip(names.items(), COLORS, MARKERS, strict=False):
        values = [getattr(look, name) for look in looks]
        ax.plot(seconds, values, color=color, marker=marker, ms=3, lw=1.2, label=label)
    for row in (row for row in rows if row.quantity == "cpu_time"):
        goal = float(row.stage.removesuffix("%")) / 100
        ax.axhline(goal, color="0.85", lw=0.8, zorder=0)
        if math.isfinite(row.value):
            words, place = f"{row.stage} at {row.value:.0f} s", (row.value, goal)
            style = {"fontsize": 8, "color": COLORS[0]}
            ax.annotate(words, place, xytext=(8, -12), textcoords="offset points", **style)
    ax.set(xlabel="processor seconds of training", ylabel="fraction on val", ylim=(0, 1.02))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def draw_scaling(points: Sequence[Point]) -> Figure:
    """Return time and memory per image against size, both logarithmic; in brackets: exponents."""
    quantities = [one for one in QUANTITIES if any(point.quantity == one for point in points)]
    axes = list(dict.fromkeys(point.axis for point in points))
    size = (max(4.2 * len(axes), 6.4), 3.4 * len(quantities) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(quantities), len(axes), squeeze=False)
    for row, quantity in zip(grid, quantities, strict=True):
        for ax, axis in zip(row, axes, strict=True):
            _draw_growth(ax, [point for point in points if point.axis == axis], quantity)
            ax.set_xlabel(AXES[axis])
        row[0].set_ylabel(QUANTITIES[quantity])
    return figure


def _draw_growth(ax: Axes, points: Sequence[Point], quantity: str) -> None:
    operations = dict.fromkeys(point.operation for point in points)
    for color, marker, operation in zip(COLORS, MARKERS, operations, strict=False):
        own = [point for point in points if point.operation == operation]
        shown = [point for point in own if point.quantity == quantity and point.value]
        fit = [point for point in own if point.quantity == f"exponent of {quantity}"]
        label = f"{operation} ({fit[0].value:.2f})" if fit else operation
        sizes, values = [one.size for one in shown], [one.value for one in shown]
        ax.plot(sizes, values, color=color, marker=marker, ms=4, lw=1.2, label=label)
    ax.set(xscale="log", yscale="log")
    sizes = sorted({point.size for point in points if point.size})
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    ax.minorticks_off()
    ax.grid(color="0.9", lw=0.6)
    ax.legend(frameon=False, fontsize=8)
