"""Every figure as a file, and the report that holds them."""

import base64
import json
from html.parser import HTMLParser

import pytest
from matplotlib.image import imread
from test_reporting_figure_detections import put_detections
from test_reporting_tables import HARD, make_config, set_source

from mist_bench.reporting.figures.write import write_figure
from mist_bench.reporting.html import write_report
from mist_bench.reporting.tables.formats import groups
from mist_bench.reporting.tables.grid import Column


@pytest.fixture
def results(tmp_path):
    put_detections(tmp_path / "cpu")
    return tmp_path / "cpu"


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
    with pytest.raises(ValueError, match="figure: 'figure9' is unknown"):
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
    assert page.tags.count("table") == 8  # Tables 1-5, Table 4 by class, deviations, runs
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
    assert groups(columns) == [("b", 2), ("a", 1)]
