"""Figure 2: test images as every method reconstructs them. N images, C channels, H and W size."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mist_bench.config.schema import Config
from mist_bench.reporting.aggregate import changed_words
from mist_bench.reporting.figures.parts import (
    MissingResultError,
    Runs,
    add_panel,
    captioned,
    image_rmse,
    picture,
    show,
)

EASY_AND_HARD = {
    "mnist_easy_reconstruction": "MNIST-easy",
    "mnist_hard_reconstruction": "MNIST-hard",
}
COMPARED = ("mist", "grid", "channelwise", "air", "landmarks")  # the paper's; rivals follow
EXAMPLES = 2  # of each set


def figure2(config: Config, results: Path) -> Figure:
    """Return Figure 2: the first images of both test sets as every method reconstructs them.

    A method that has not run leaves its panels empty.
    """
    width, gap, row_label, title = 1.5, 0.08, 0.3, 0.3  # inches
    row_height = width + 0.27
    if lacking := [name for name in EASY_AND_HARD if name not in config.experiments]:
        raise MissingResultError(f"the config has no {lacking[0]}")
    rivals = (m for name in EASY_AND_HARD for m in config.experiments[name].methods)
    methods = list(dict.fromkeys((*COMPARED, *rivals)))
    stored = {name: reconstructions(config, results, name, methods) for name in EASY_AND_HARD}
    if not any(stored.values()):
        raise MissingResultError("no method has reconstructed MNIST-easy or MNIST-hard")
    shown = {name: Runs(config, results, name, *stored[name]) for name in EASY_AND_HARD}
    images = {name: runs.truth()["images"][:EXAMPLES] for name, runs in shown.items()}
    rows = [(name, i) for name in EASY_AND_HARD for i in range(len(images[name]))]

    there = {name: runs for name, runs in shown.items() if runs.methods}
    steps = "; ".join(f"on {EASY_AND_HARD[name]}: {runs.steps}" for name, runs in there.items())
    drawn = [(name, method) for name, runs in there.items() for method in runs.methods]
    sources = dict.fromkeys(one.source for one in shown.values())
    caption = (
        "Figure 2. Test images and their reconstructions, with the root mean square error of each "
        "(black is 0, white 1; clipped to this for display only). "
        f"Preset {config.preset}; seed {config.seeds[0]}; training steps {steps}. "
        f"{changed_words(config, drawn)}Data: {'; '.join(sources)}. "
        f"Images: the first {EXAMPLES} of each test set, numbered "
        "from 0, the same for every method."
    )
    total = row_label + (len(methods) + 1) * (width + gap)
    height = title + len(rows) * row_height + 0.15
    figure, _ = captioned(caption, total, height)
    for r, (name, i) in enumerate(rows):
        places = [row_label + c * (width + gap) for c in range(len(methods) + 1)]
        axes = [add_panel(figure, x, title + r * row_height, width) for x in places]
        show(axes[0], picture(images[name][i]))
        axes[0].set_ylabel(f"{EASY_AND_HARD[name]}, image {i}")
        for ax, method in zip(axes[1:], methods, strict=True):
            draw_reconstruction(ax, images[name][i], stored[name].get(method), i)
        if r == 0:
            names = [config.methods[m].label if m in config.methods else m for m in methods]
            for ax, words in zip(axes, ["Input", *names], strict=True):
                ax.set_title(words)
    return figure


def reconstructions(
    config: Config, results: Path, experiment: str, methods: Sequence[str]
) -> dict[str, NDArray]:
    """Return the (N, C, H, W) reconstructions of those ``methods`` that have run."""
    found = {}
    for method in methods:
        with suppress(MissingResultError):
            runs = Runs(config, results, experiment, method)
            found[method] = runs.arrays(method, "reconstructions")["reconstructions"]
    return found


def draw_reconstruction(ax: Axes, image: NDArray, found: NDArray | None, i: int) -> None:
    """Draw image ``i`` of (N, C, H, W) reconstructions with its error, or that there is none."""
    if found is None:
        ax.set(xticks=[], yticks=[], facecolor="0.93")
        ax.text(0.5, 0.5, "not run", ha="center", va="center", transform=ax.transAxes, color="0.3")
        return
    show(ax, picture(found[i]))
    ax.set_xlabel(f"RMSE {image_rmse(image, found[i]):.3f}", labelpad=2)
