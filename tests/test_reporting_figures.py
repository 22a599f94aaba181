import base64
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread
from test_reporting_tables import HARD, make_config, put_run, set_source

from mist_bench.datasets.files import Split, save_manifest, save_split
from mist_bench.reporting.figures import panel, repeats, write_figure
from mist_bench.reporting.grid import Column
from mist_bench.reporting.html import column_groups, write_report


def test_repeats_by_hand():
    labels = [np.array(one, np.int64) for one in ([1, 2, 3], [6, 0, 6, 6], [], [0, 0, 0, 0])]
    assert repeats(labels, 3).tolist() == [1, 3]


def scene_arrays(shift=0):
    """Two images of nine digits: image 0 without a repeated digit, image 1 with three sixes."""
    x, y = np.meshgrid([14, 40, 66], [14, 40, 66])
    boxes = np.stack([x.ravel(), y.ravel(), np.full(9, 20), np.full(9, 20)], 1)
    boxes = np.repeat(boxes[None], 2, 0).astype(np.float32)
    boxes[..., 0] += shift
    labels = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8], [6, 1, 6, 3, 4, 6, 0, 0, 8]])
    return boxes, labels


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "cpu"
    data = folder / "datasets" / "mnist_hard"
    data.mkdir(parents=True)
    boxes, labels = scene_arrays()
    images = np.zeros((2, 1, 80, 80), np.uint8)
    for i, j in np.ndindex(2, 9):
        x, y = boxes[i, j, :2].astype(int)
        images[i, 0, y - 7 : y + 8, x - 4 : x + 5] = 200
    arrays = {"images": images, "counts": np.array([9, 9]), "labels": labels, "boxes": boxes}
    entry = save_split(data, "test", Split(arrays, "squares"))
    save_manifest(data, {"source": "squares made by hand", "splits": {"test": entry}})
    for method, shift in (("mist", 1), ("channelwise", 9)):
        put_run(folder, method, 0, {"both": 0.9})
        found, guessed = scene_arrays(shift)
        guessed = guessed.copy()
        guessed[1, 0] = 9  # one digit mislabeled
        np.savez(
            folder / "runs" / HARD / method / "seed0" / "predictions.npz",
            counts=np.array([9, 9]),
            boxes=found,
            scores=np.ones((2, 9), np.float32),
            labels=guessed,
        )
    return folder


def test_a_panel_knows_right_from_wrong(results):
    boxes, labels = scene_arrays()
    truth = {
        "images": np.full((2, 1, 80, 80), 51, np.uint8),
        "counts": np.array([9, 9]),
        "labels": labels,
        "boxes": boxes,
    }
    with np.load(results / "runs" / HARD / "mist" / "seed0" / "predictions.npz") as stored:
        one = panel("MIST", truth, dict(stored), 1)
    assert one.right.tolist() == [False] + [True] * 8
    assert one.title == "MIST: 8 of 9 right"
    assert one.image[0, 0] == pytest.approx(0.2)


def test_figure5_is_written_twice_the_same(results, tmp_path):
    config = make_config(seeds=[0])
    for run in ("a", "b"):
        write_figure("figure5", config, results, tmp_path / run)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["figure5.pdf", "figure5.png"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    height, width = imread(tmp_path / "a" / "figure5.png").shape[:2]
    assert width > 1000
    assert height > 500


def test_a_figure_without_its_results_is_a_page_that_says_so(results, tmp_path):
    (results / "runs" / HARD / "channelwise" / "seed0" / "predictions.npz").unlink()
    write_figure("figure5", make_config(seeds=[0]), results, tmp_path)
    write_figure("figure2", make_config(seeds=[0]), results, tmp_path)
    assert imread(tmp_path / "figure5.png").shape == imread(tmp_path / "figure2.png").shape
    assert (tmp_path / "figure5.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("number", range(1, 9))
def test_every_figure_of_the_paper_is_known(number, results, tmp_path):
    write_figure(f"figure{number}", make_config(seeds=[0]), results, tmp_path)
    assert (tmp_path / f"figure{number}.png").stat().st_size > 1000


def test_an_unknown_figure_is_an_error(results, tmp_path):
    with pytest.raises(ValueError, match="no figure 'figure9'; known: figure1"):
        write_figure("figure9", make_config(), results, tmp_path)


class Page(HTMLParser):
    """Collects what a test looks for in a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.words, self.open = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_report_is_one_page_without_external_resources(results):
    config = make_config(seeds=[0])
    set_source_words = "squares <b>made</b> by hand"
    manifest = results / "datasets" / "mnist_hard" / "manifest.json"
    content = json.loads(manifest.read_text()) | {"source": set_source_words}
    manifest.write_text(json.dumps(content))
    write_figure("figure5", config, results, results / "figures")
    write_report(config, results, results / "report")
    page = Page()
    page.feed((results / "report" / "index.html").read_text())
    assert page.open == []
    assert page.tags.count("table") == 7  # five tables, deviations, runs
    assert "b" not in page.tags  # the source is escaped
    (image,) = page.links
    kind, data = image.split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == (results / "figures" / "figure5.png").read_bytes()
    text = " ".join(page.words)
    for words in ("Table 5", "97.8%", "reproduced", "B2", "420.5", "abc", "not built yet"):
        assert words in text, words


def test_the_report_of_nothing_says_so(tmp_path):
    folder = tmp_path / "cpu"
    (folder / "datasets" / "mnist_hard").mkdir(parents=True)
    set_source(folder, "nothing")
    write_report(make_config(), folder, folder / "report")
    assert "No figure has been made yet." in (folder / "report" / "index.html").read_text()


def test_column_groups_keep_their_order():
    columns = [Column("b", "1"), Column("b", "2"), Column("a", "1")]
    assert column_groups(columns) == [("b", 2), ("a", 1)]
