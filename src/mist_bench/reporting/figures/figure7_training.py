"""Figure 7: how MIST's two losses and its heatmap evolve in training.

S validations of a run; h w heatmap.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mist_bench.config.schema import Config
from mist_bench.config.targets import run_folder
from mist_bench.evaluation.metrics import load_predictions
from mist_bench.reporting.figures.parts import (
    RIGHT,
    MissingResultError,
    Runs,
    captioned,
    picture,
    show,
)

EXPERIMENT, METHOD = "mnist_hard_classification", "mist"
LOSSES = {  # column of train.csv -> what it is in the paper
    "loss": "(a) task loss",
    "heatmap_loss": "(b) heatmap loss",
}
MAPS = 6  # heatmaps shown, from the first that was kept to the last
LINE = "#0072B2"  # Okabe and Ito


def figure7(config: Config, results: Path) -> Figure:
    """Return Figure 7: both losses of MIST on MNIST-hard, and the heatmap of one image.

    The losses are those of every seed that has been trained: their mean, and a band from the
    least to the most. The heatmap is the first seed's on the first image of the val split.
    """
    runs = Runs(config, results, EXPERIMENT, METHOD)
    folders = {seed: run_folder(results, EXPERIMENT, METHOD, seed) for seed in config.seeds}
    needed = ("train.csv", "heatmaps.npz")
    drawable = {s: f for s, f in folders.items() if all((f / name).is_file() for name in needed)}
    curves = {seed: pd.read_csv(folder / "train.csv") for seed, folder in drawable.items()}
    if not curves:
        raise MissingResultError(f"no seed of {EXPERIMENT}/{METHOD} has train.csv and heatmaps.npz")
    first = next(iter(curves))
    stored = load_predictions(folders[first] / "heatmaps.npz")
    band = (
        f"Line: mean over the seeds {', '.join(map(str, curves))}; band: from the least to the most"
        if len(curves) > 1
        else f"Seed {first} alone, hence no band"
    )
    return draw(
        losses(list(curves.values())),
        picture(runs.truth("val")["images"][0]),
        spread(stored["steps"], stored["heatmaps"]),
        f"Figure 7. Training of MIST on MNIST-hard: (a) the task loss (Eq. 9), (b) the heatmap "
        f"loss (Eq. 7, without the offsets'), and the heatmap of an image that is not trained on, "
        f"after as many steps as written above. Preset {config.preset}; training steps: "
        f"{runs.steps}. {runs.changes}{band}. Losses are means over the "
        f"batches since the last point; all axes are logarithmic. Heatmaps: seed {first}, the "
        f"first image of the val split, all from 0 (dark) to the highest value of the last. "
        f"Data: {runs.source}.",
    )


def losses(curves: Sequence[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return mean, least and most over the seeds of each loss, by step.

    Args:
        curves: train.csv of each seed; a step that one lacks is left out.

    Raises:
        MissingResultError: if the seeds have no step in common.
    """
    by_step = pd.concat(curves).groupby("step")
    common = by_step.size() == len(curves)
    if not common.any():
        raise MissingResultError("the seeds' train.csv have no step in common")
    return {
        name: by_step[name].agg(mean="mean", least="min", most="max")[common] for name in LOSSES
    }


def spread(steps: NDArray, heatmaps: NDArray) -> dict[int, NDArray]:
    """Return at most ``MAPS`` of the (S, h, w) heatmaps by step, the first and the last too.

    Their steps are about equally far apart on a logarithmic scale: most changes at first.

    Raises:
        MissingResultError: if there is none.
    """
    if len(steps) == 0:
        raise MissingResultError("the run has stored no heatmap")
    wanted = np.geomspace(steps[0], steps[-1], MAPS)
    distance = np.abs(np.log(wanted)[:, None] - np.log(steps))  # (MAPS, S)
    chosen = np.unique(distance.argmin(1))
    return {int(steps[i]): heatmaps[i].astype(np.float32) for i in chosen}


def draw(
    curves: Mapping[str, pd.DataFrame],
    image: NDArray,
    heatmaps: Mapping[int, NDArray],
    caption: str,
) -> Figure:
    """Return the curves above, and the image with its heatmaps below."""
    width, above, row = 9.0, 2.9, 1.75  # inches
    figure, below = captioned(caption, width, above + row + 0.2)
    height = figure.get_figheight()
    rows = {"top": 1 - 0.3 / height, "bottom": 1 - (above - 0.5) / height}
    grid = figure.add_gridspec(1, len(curves), left=0.08, right=0.97, wspace=0.25, **rows)
    for cell, (name, curve) in zip(grid, curves.items(), strict=True):
        draw_loss(figure.add_subplot(cell), curve, LOSSES[name])
    rows = {"top": 1 - (above + 0.2) / height, "bottom": (below + 0.2) / height}
    cells = figure.add_gridspec(1, 1 + MAPS, left=0.02, right=0.985, wspace=0.06, **rows)
    ax = figure.add_subplot(cells[0])
    show(ax, image)
    ax.set_title("image")
    highest = float(list(heatmaps.values())[-1].max())
    for place, (step, heatmap) in enumerate(heatmaps.items(), start=1):
        ax = figure.add_subplot(cells[place])
        ax.imshow(heatmap, cmap="viridis", vmin=0, vmax=max(highest, 1e-6), interpolation="nearest")
        ax.set(xticks=[], yticks=[], title=f"{step:,}")
    return figure


def draw_loss(ax: Axes, curve: pd.DataFrame, title: str) -> None:
    """Draw one loss: its mean, and the band of the seeds where there are several."""
    steps = curve.index.to_numpy()
    if (curve["most"] > curve["least"]).any():
        ax.fill_between(steps, curve["least"], curve["most"], color=RIGHT, alpha=0.45, lw=0)
    ax.plot(steps, curve["mean"], color=LINE, lw=1.2)
    ax.set(xscale="log", yscale="log", xlabel="step", title=title, xlim=(steps[0], steps[-1]))
    ax.grid(color="0.9", lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)
