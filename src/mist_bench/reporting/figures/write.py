"""Figures as PNG and PDF, from stored predictions; equal results give equal files."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from mist_bench.config.keywords import check_names
from mist_bench.config.schema import Config
from mist_bench.reporting.figures.figure1_stages import figure1
from mist_bench.reporting.figures.figure2_reconstructions import figure2
from mist_bench.reporting.figures.figure3_and_8_parts import figure3, figure8
from mist_bench.reporting.figures.figure4_gabor import figure4
from mist_bench.reporting.figures.figure5_detections import figure5
from mist_bench.reporting.figures.figure6_photographs import figure6
from mist_bench.reporting.figures.figure7_training import figure7
from mist_bench.reporting.figures.parts import MissingResultError, message, save

DRAWN: dict[str, Callable[[Config, Path], Figure]] = {
    draw.__name__: draw
    for draw in (figure1, figure2, figure3, figure4, figure5, figure6, figure7, figure8)
}


def write_figure(name: str, config: Config, results: Path, out: Path) -> None:
    """Write {name}.png and {name}.pdf to ``out``: a page that says so if results are missing.

    Raises:
        ConfigError: for an unknown figure.
    """
    check_names("figure", [name], DRAWN)
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "pdf.fonttype": 42}):
        try:
            figure = DRAWN[name](config, results)
        except MissingResultError as error:
            figure = message(name, f"not run — {error}")
        save(figure, out / name)
