"""Figure 1: the architecture, drawn from one forward and one backward pass of a trained MIST.

C channels, H and W image size, h and w heatmap; S scales, K keypoints, p patch side.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mist_bench.config.schema import Config
from mist_bench.reporting.figures.parts import (
    RIGHT,
    Runs,
    add_panel,
    captioned,
    draw_box,
    picture,
    show,
)

FORWARD, BACKWARD = "0.25", "#D55E00"
SIDE, PITCH, LEFT = 1.35, 1.95, 0.15  # inches: a stage's panel, from one to the next, the first
TOP, LOWER = 0.95, 3.3  # inches: where the forward and the backward stages begin
WIDTH = LEFT + 6 * PITCH + SIDE + 0.15
LAYER_SHIFT = 0.12  # of a heatmap's side, from one scale to the next
LONGEST = 10  # px, of a drawn keypoint step
KEYPOINTS = r"$\{\mathbf{x}_k\}$"
TASK_LOSS = (
    r"$\mathcal{L}_\mathrm{task}=\Vert\mathcal{I}-\Sigma_k\,\mathcal{S}^{-1}"
    r"(\mathbf{P}_k,\mathbf{x}_k)\Vert_2^2$"
)
HEATMAP_LOSS = r"$\Vert\mathcal{G}(\{\mathbf{x}_k\})-\mathcal{H}_\eta(\mathcal{I})\Vert_2^2$"


def figure1(config: Config, results: Path) -> Figure:
    """Return Figure 1: what every stage makes of the first test image of MNIST-hard."""
    runs = Runs(config, results, "mnist_hard_reconstruction", "mist")
    stages = runs.arrays("mist", file="trace.npz")
    scales = len(stages["scale_space"])
    caption = (
        "Figure 1. The MIST architecture on one image: a forward pass (gray arrows) and the update "
        f"by lifting (orange) of a trained network. "
        f"{'A single scale' if scales == 1 else f'{scales} scales'}; heatmap and target share one "
        f"color scale. {runs.origin} Image: the first of the test set of MNIST-hard."
    )
    figure, _ = captioned(caption, WIDTH, LOWER + SIDE + 0.5)
    draw_stages(figure, stages)
    draw_flow(figure)
    return figure


def draw_stages(figure: Figure, stages: dict[str, NDArray]) -> None:
    """Draw the picture of every stage: seven forward, two backward."""
    image, boxes, moved = picture(stages["image"]), stages["boxes"], stages["moved"]
    height, width = image.shape[:2]
    highest = max(stages["scale_space"].max(), stages["target"].max())
    heat = {
        "cmap": "magma",
        "vmin": 0,
        "vmax": highest,
        "interpolation": "nearest",
        "extent": (-0.5, width - 0.5, height - 0.5, -0.5),  # so that pixels are its unit
    }
    names = (
        r"Image $\mathcal{I}$",
        r"Heatmap $\mathbf{h}$",
        "Local maxima",
        rf"Top $K$ = {len(boxes)}: $\{{\mathbf{{x}}_k\}}$",
        r"Patches $\{\mathbf{P}_k\}$",
        "Auto-encoded patches",
        "Synthesis",
    )
    axes = [add_panel(figure, LEFT + k * PITCH, TOP, SIDE) for k in range(len(names))]
    for ax, name in zip(axes, names, strict=True):
        ax.set_title(name, fontsize=10, pad=4)
    show(axes[0], image)
    draw_layers(figure, axes[1], stages["scale_space"], heat)
    axes[2].imshow(np.where(stages["maxima"], stages["heatmap"], 0), **heat)
    axes[2].plot(*boxes[:, :2].T, "o", mfc="none", mec=RIGHT, ms=9, mew=1.2)
    show(axes[3], image)
    for box in boxes:
        draw_box(axes[3], box, color=RIGHT, lw=1.4)
    show(axes[4], montage(stages["patches"]))
    show(axes[5], montage(stages["decoded"]))
    show(axes[6], picture(stages["reconstruction"]))
    below = [add_panel(figure, LEFT + k * PITCH, LOWER, SIDE) for k in (3, 1)]
    draw_step(below[0], image, boxes[:, :2], moved[:, :2])
    draw_layers(figure, below[1], stages["target"], heat)
    below[1].set_xlabel(r"Target $\mathcal{G}(\{\mathbf{x}_k\})$", fontsize=10)
    for ax in (axes[2], below[0]):
        ax.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def draw_layers(figure: Figure, ax: Axes, maps: NDArray, heat: dict) -> None:
    """Draw the (S, h, w) maps of all scales into the place of ``ax``, the first in front."""
    x, y, w, h = ax.get_position().bounds
    size = 1 / (1 + LAYER_SHIFT * (len(maps) - 1))
    ax.set(xticks=[], yticks=[], frame_on=False)
    for s, one in enumerate(maps):
        shift = LAYER_SHIFT * size * s
        place = (x + shift * w, y + shift * h, size * w, size * h)
        layer = figure.add_axes(place, zorder=1 - s / len(maps))
        layer.imshow(one, **heat)
        layer.set(xticks=[], yticks=[])
        layer.spines[:].set_color("white")


def montage(patches: NDArray) -> NDArray:
    """Return (K, C, p, p) patches side by side in a square, with white lines between them."""
    K, p = len(patches), patches.shape[-1]
    columns = int(np.ceil(np.sqrt(K)))
    pictures = [picture(one) for one in patches]
    side = columns * (p + 1) - 1
    sheet = np.ones((side, side, *pictures[0].shape[2:]))
    for k, one in enumerate(pictures):
        top, left = (p + 1) * (k // columns), (p + 1) * (k % columns)
        sheet[top : top + p, left : left + p] = one
    return sheet


def draw_step(ax: Axes, image: NDArray, start: NDArray, moved: NDArray) -> None:
    """Draw how (K, 2) keypoints move; short steps are drawn longer, by a factor that is told."""
    step = moved - start
    longest = np.linalg.norm(step, axis=1).max()
    factor = max(1, int(LONGEST / longest)) if longest > 0 else 1
    show(ax, image)
    ax.plot(*start.T, "o", color=RIGHT, ms=3)
    style = {"color": BACKWARD, "angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.02}
    ax.quiver(*start.T, *(factor * step).T, **style)
    drawn = f", drawn {factor}\u00d7 as long" if factor > 1 else ""
    ax.set_xlabel(rf"Steps of $\{{\mathbf{{x}}_k\}}${drawn}", fontsize=10)


def draw_flow(figure: Figure) -> None:
    """Draw arrows and operators between the stages."""
    W, H = figure.get_size_inches()
    canvas = figure.add_axes((0, 0, 1, 1), zorder=5)
    canvas.set(xlim=(0, W), ylim=(H, 0))
    canvas.axis("off")
    middle, gap = TOP + SIDE / 2, PITCH - SIDE
    operators = (
        r"$\mathcal{H}_\eta$",
        "NMS",
        r"top $K$",
        r"$\mathcal{S}$",
        r"$\mathcal{T}_\tau$",
        r"$\Sigma\,\mathcal{S}^{-1}$",
    )
    ends = [LEFT + k * PITCH + SIDE for k in range(len(operators))]  # of the stages that go on
    for x, name in zip(ends, operators, strict=True):
        arrow(canvas, (x + 0.06, middle), (x + gap - 0.06, middle), color=FORWARD)
        canvas.text(x + gap / 2, middle - 0.1, name, ha="center", va="bottom", fontsize=12)
    # E_K is two operators in one
    left, right, y = ends[1] + 0.05, ends[2] + gap - 0.05, TOP - 0.3
    canvas.plot([left, left, right, right], [y + 0.1, y, y, y + 0.1], color=FORWARD, lw=1)
    words = r"$\mathcal{E}_K$  (Eq. 1)"
    canvas.text((left + right) / 2, y - 0.05, words, ha="center", va="bottom", fontsize=12)
    # S reads the image, too
    image, sampler = LEFT + SIDE / 2, ends[3] + gap / 2
    path = [(image, TOP - 0.24), (image, 0.15), (sampler, 0.15), (sampler, middle - 0.36)]
    arrow(canvas, *path, color=FORWARD)
    draw_lifting(canvas)


def draw_lifting(canvas: Axes) -> None:
    """Draw the losses and what each of them updates (Algorithm 1)."""
    gap, bottom, lower = PITCH - SIDE, TOP + SIDE, LOWER + SIDE / 2
    between, under_row = (bottom + LOWER) / 2, bottom + 0.05
    heat, boxes, synthesis = (LEFT + k * PITCH + SIDE / 2 for k in (1, 3, 6))  # their middles
    centered = {"ha": "center", "va": "center", "fontsize": 11}
    label = {"ha": "center", "va": "bottom", "fontsize": 10, "color": BACKWARD}

    def update(start: float, network: float, words: str) -> None:
        """Lead from a loss, at ``start``, to a network."""
        path = (start, between), (network, between), (network, bottom - SIDE / 2 + 0.1)
        arrow(canvas, *path, color=BACKWARD)
        canvas.text(network - 0.08, between, words, **label | {"ha": "right", "va": "center"})

    # L_task steps tau and the keypoints
    canvas.text(synthesis - 0.7, between, f"{TASK_LOSS}  (Eq. 8)", **centered)
    arrow(canvas, (synthesis, under_row), (synthesis, between - 0.2), color=BACKWARD)
    update(synthesis - 2.2, synthesis - SIDE / 2 - PITCH - gap / 2, r"updates $\tau$  (Eq. 6)")
    edge = boxes + SIDE / 2
    path = (synthesis, between + 0.2), (synthesis, lower), (edge + 0.06, lower)
    arrow(canvas, *path, color=BACKWARD)
    canvas.text((synthesis + edge) / 2, lower - 0.06, f"updates {KEYPOINTS}  (Eq. 6)", **label)

    # the moved keypoints say what the heatmap should have been
    arrow(canvas, (boxes, under_row), (boxes, LOWER - 0.06), color=FORWARD)
    canvas.text(boxes + 0.08, between, "start", ha="left", va="center", fontsize=10)
    ends = boxes - SIDE / 2 - 0.06, heat + SIDE / 2 + 0.06
    arrow(canvas, *((x, lower) for x in ends), color=BACKWARD)
    words = r"$\mathcal{G}$"
    canvas.text((boxes + heat) / 2, lower - 0.08, words, **label | {"fontsize": 12})
    canvas.text(heat + 0.4, between, f"{HEATMAP_LOSS}  (Eq. 7)", **centered)
    arrow(canvas, (heat, under_row), (heat, between - 0.2), color=FORWARD)
    arrow(canvas, (heat, LOWER - 0.06), (heat, between + 0.2), color=BACKWARD)
    update(heat - 0.8, heat - SIDE / 2 - gap / 2, r"updates $\eta$")


def arrow(ax: Axes, *points: tuple[float, float], color: str) -> None:
    """Draw a line through points, with a head at the last."""
    ax.plot(*np.transpose(points[:-1]), color=color, lw=1.6, solid_joinstyle="miter")
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", points[-1], points[-2], arrowprops=style)
