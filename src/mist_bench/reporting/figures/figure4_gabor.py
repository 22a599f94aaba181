"""Figure 4: the impulses and kernels that MIST finds in Gabor noise.

N images, K detections and L impulses of one image; p patch side; n true kernels.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from mist_bench.config import resolve as settings
from mist_bench.config.schema import Config
from mist_bench.datasets.gabor import gabor_kernel, standard_deviation
from mist_bench.evaluation.matching import CENTER_TOLERANCE, Scene, match_centers, stored_scene
from mist_bench.reporting.figures.parts import (
    RIGHT,
    TRUTH,
    WRONG,
    Runs,
    add_panel,
    captioned,
    image_rmse,
    picture,
    show,
)

EXPERIMENT, METHOD = "gabor_reconstruction", "mist"
GROUND = "0.5"  # what the legend's marks lie on: gray, as noise is
# detections are marks, not boxes: boxes as large as a kernel would hide each other
MARKS = {
    "right detection": {"marker": "o", "color": RIGHT, "markeredgecolor": "black", "ms": 6},
    "wrong detection": {"marker": "X", "color": WRONG, "markeredgecolor": "black", "ms": 7},
    "missed impulse": {"marker": "o", "mfc": "none", "mec": TRUTH, "mew": 1.6, "ms": 9},
}


def figure4(config: Config, results: Path) -> Figure:
    """Return Figure 4: detections and synthesis of one image, and the learned kernels.

    The image is the first of those test images whose number of impulses is nearest to the number
    of detections, because with fewer some must be wrong, and with more some must be missed.

    Raises:
        MissingResultError: if the run or a part of it is not there.
    """
    runs = Runs(config, results, EXPERIMENT, METHOD)
    stored, extent = runs.arrays(METHOD, "reconstructions", "patches"), runs.extent(METHOD)
    setup, truth = runs.setup, runs.truth()
    scenes = [stored_scene(stored, truth, i) for i in range(len(truth["images"]))]
    shown = setup.num_detections or setup.num_instances
    i = int(np.argmin(np.abs(truth["counts"] - shown)))
    params = settings.dataset_spec(config, setup.dataset).params
    true = true_kernels(params, extent, stored["patches"].shape[-1])
    learned, likeness = learned_kernels(scenes, stored["patches"], true)
    wave = 1 / params["frequency"] if params["frequency"] else math.inf
    caption = (
        f"Figure 4. Gabor noise taken apart by MIST: test image {i} (from 0), the first whose "
        f"number of impulses ({len(scenes[i].true_boxes)}) is nearest to the "
        f"{shown} detections (K = {setup.num_instances} in training); the impulses found in it; "
        "and the sum of the decoded patches. "
        f"Right: at most {CENTER_TOLERANCE * config.datasets[setup.dataset].box_size:g} px from an "
        f"impulse, one detection per impulse{found_words(scenes, wave)}. "
        "Below: the kernels of the noise, and the mean "
        f"decoded patch ({extent:g} px wide) of all right detections of the test set that are most "
        "like each; below it, the mean of the single patches' cosine similarity to the kernel. "
        f"{runs.origin} MIST is told neither impulses nor kernels, only K."
    )
    images = truth["images"][i], stored["reconstructions"][i]
    return draw(images, scenes[i], params["orientations"], true, learned, likeness, caption)


def found_by_distance(scenes: list[Scene], limits: Sequence[float]) -> list[tuple[int, int]]:
    """Return how many impulses are found, and how many there are, by the distance of the nearest.

    Args:
        scenes: of the test images.
        limits: rising distances, px, that part impulses by that of the nearest other impulse of
            their image, center to center; one that is alone counts as farther than any.

    Returns:
        (found, all) of those below the first limit, between each two, and from the last on.
    """
    counts = np.zeros((2, len(limits) + 1), int)
    for scene in scenes:
        centers = scene.true_boxes[:, :2]
        apart = cdist(centers, centers)
        np.fill_diagonal(apart, np.inf)
        part = np.searchsorted(limits, apart.min(axis=1, initial=np.inf), side="right")
        for total, parts in zip(counts, (part[match_centers(scene)[1]], part), strict=True):
            np.add.at(total, parts, 1)
    return list(zip(*counts.tolist(), strict=True))


def found_words(scenes: list[Scene], wave: float) -> str:
    """Return in words which share of the impulses is found, as those of a caption in parentheses.

    Kernels less than half a wave apart have one main lobe together.

    Args:
        scenes: of the test images.
        wave: length of a wave of the kernels, px.
    """
    groups = found_by_distance(scenes, (wave / 2, wave))
    total = sum(count for _, count in groups)
    if not total or wave == math.inf:
        return ""
    names = (f"less than {wave / 2:.0f} px from another", f"up to {wave:.0f} px", "farther")
    parts = [
        f"{found / count:.0%} of those {name}"
        for (found, count), name in zip(groups, names, strict=True)
        if count
    ]
    share = sum(found for found, _ in groups) / total
    return f" (test set: {share:.0%} of {total:,} impulses found; {', '.join(parts)})"


def true_kernels(params: Mapping[str, Any], extent: float, size: int) -> NDArray[np.float64]:
    """Return the (n, p, p) kernels of a set, scaled as its images show them; gray is 0, white 1.

    Args:
        params: keywords of ``datasets.gabor.make_split``.
        extent: side of the square that is sampled, px; the outer samples lie on its edge.
        size: p, samples per side.
    """
    shape = {key: params[key] for key in ("bandwidth", "frequency")}
    density = params["expected_count"] / (params["canvas"] - 2 * params["margin"]) ** 2
    limit = params["white"] * standard_deviation(density, **shape)
    steps = extent * np.linspace(-0.5, 0.5, size)
    kernels = [
        gabor_kernel(steps, steps[:, None], **shape, orientation=angle)
        for angle in params["orientations"]
    ]
    return np.clip(np.stack(kernels) / limit, -1, 1)


def learned_kernels(
    scenes: list[Scene], patches: NDArray, true: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean decoded patch for each true kernel, and how like it single patches are.

    A patch of a right detection counts for the kernel that it is most similar to.

    Args:
        scenes: of the N test images.
        patches: (N, K, 1, p, p) decoded, of the signal around gray.
        true: (n, p, p).

    Returns:
        (n, p, p), 0 where no patch counts, and the (n,) means of single patches' cosine
        similarity, which a mean patch would hide; NaN where no patch counts.
    """
    right = [
        patches[i, match_centers(scene)[0], 0].astype(np.float64) for i, scene in enumerate(scenes)
    ]
    found = np.concatenate(right)  # (M, p, p)
    sizes = np.linalg.norm(found, axis=(1, 2)).clip(1e-9)[:, None]
    cosines = np.einsum("mij,nij->mn", found, true) / np.linalg.norm(true, axis=(1, 2)) / sizes
    nearest = cosines.argmax(1)
    means, likeness = np.zeros_like(true), np.full(len(true), np.nan)
    for k in np.unique(nearest):
        means[k] = found[nearest == k].mean(0)
        likeness[k] = cosines[nearest == k, k].mean()
    return means, likeness


def draw(
    images: tuple[NDArray, NDArray],
    scene: Scene,
    orientations: list[float],
    true: NDArray,
    learned: NDArray,
    likeness: NDArray,
    caption: str,
) -> Figure:
    """Return input, detections and synthesis above the true and the learned kernels."""
    side, gap, small, label = 2.3, 0.08, 0.9, 0.75
    width = 3 * side + 4 * gap
    legend = 0.3 + side + 0.12  # from the top, as all that follows
    first = legend + 0.55
    figure, _ = captioned(caption, width, first + 2 * small + 0.3)
    height = figure.get_figheight()
    image, synthesis = images
    axes = [add_panel(figure, gap + k * (side + gap), 0.3, side) for k in range(3)]
    for ax, picked in zip(axes, (image, image, synthesis), strict=True):
        show(ax, picture(picked))
    right, found = match_centers(scene)
    error = image_rmse(image, synthesis)
    counted = f"{len(found)} of {len(scene.true_boxes)} impulses found"
    for ax, title in zip(axes, ("Input", counted, f"Synthesis: RMSE {error:.3f}"), strict=True):
        ax.set_title(title)
    mark(axes[1], scene, right, found)
    handles = [Line2D([], [], ls="", label=name, **style) for name, style in MARKS.items()]
    place = (0.5, 1 - legend / height)
    box = figure.legend(handles=handles, loc="upper center", bbox_to_anchor=place, ncols=3)
    box.get_frame().set(facecolor="0.75", edgecolor="none")
    left = (width - label - len(true) * (small + gap)) / 2 + label
    for row, (name, kernels) in enumerate({"true": true, "learned": learned}.items()):
        for k, kernel in enumerate(kernels):
            ax = add_panel(figure, left + k * (small + gap), first + row * small, 0.95 * small)
            show(ax, (1 + kernel) / 2)
            if row == 0:
                ax.set_title(f"{orientations[k]:g}°", fontsize=9, pad=3)
            else:
                words = "none found" if np.isnan(likeness[k]) else f"{likeness[k]:.2f}"
                ax.set_xlabel(words, labelpad=2)
            if k == 0:
                ax.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def mark(ax: Axes, scene: Scene, right: NDArray, found: NDArray) -> None:
    """Draw the marks of detections and of missed impulses."""
    wrong = np.setdiff1d(np.arange(len(scene.boxes)), right)
    missed = np.setdiff1d(np.arange(len(scene.true_boxes)), found)
    places = (scene.boxes[right], scene.boxes[wrong], scene.true_boxes[missed])
    for boxes, style in zip(places, MARKS.values(), strict=True):
        ax.plot(boxes[:, 0], boxes[:, 1], ls="", **style)
