import importlib.util
import io
import json
import re
import tarfile
import threading
import zipfile
from collections import Counter
from functools import partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
from devkits import PARAMS, coco_data, photo, voc_text, write_image

from mist_bench.datasets.photographs import download as photographs
from mist_bench.datasets.photographs.download import ARCHIVES, fetch_annotations, fetch_images
from mist_bench.datasets.photographs.pascal_coco import make_split
from mist_bench.datasets.photographs.voc import read_voc

DOGS = range(1, 21)
TRAINVAL, TEST = list(ARCHIVES["VOC2007"])
(ZIP,) = ARCHIVES["COCO"]
NO_OBJECTS = {"images": [], "annotations": [], "categories": []}


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; counts what is asked for."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.asked[self.path.lstrip("/")] += 1
        super().do_GET()


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def write_zip(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(f"annotations/instances_{name}.json", json.dumps(data))


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with small archives of all sets and COCO's photographs, and an empty cache."""
    folder = tmp_path / "host"
    write_image(folder / "jpeg")
    jpeg, base = (folder / "jpeg").read_bytes(), "VOCdevkit/VOC2007"
    note = voc_text(("cow", 0, 11, 6, 20, 15)).encode()
    for name, file in (("a", TRAINVAL), ("b", TEST)):
        members = {
            f"{base}/JPEGImages/{name}.jpg": jpeg,
            f"{base}/Annotations/{name}.xml": note.replace(b"a.jpg", f"{name}.jpg".encode()),
            f"{base}/ImageSets/Main/{name}.txt": b"",
            f"{base}/SegmentationClass/{name}.png": b"not used",
            f"{base}/Annotations/../../../../{name}": b"out of here",
            f"{base}/Annotations/..": b"out of here",
        }
        write_tar(folder / file, members)
    data = coco_data(*[(i, 18, i, 8, 10, 9) for i in DOGS], images=DOGS)
    write_zip(folder / ZIP, {"train2017": data, "val2017": NO_OBJECTS})
    for image in data["images"]:
        write_image(folder / "train2017" / image["file_name"])
    trusted = {
        name: {file: md5((folder / file).read_bytes()).hexdigest() for file in ARCHIVES[name]}
        for name in ("VOC2007", "COCO")
    }
    monkeypatch.setattr(photographs, "ARCHIVES", trusted)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setattr(photographs, "RETRIES", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        server.folder, server.asked = folder, Counter()
        server.url = f"http://127.0.0.1:{server.server_port}"
        for name in ("VOC_HOST", "COCO_HOST"):
            monkeypatch.setattr(photographs, name, server.url)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def annotations(*names):
    return fetch_annotations(names or ("VOC2007", "COCO"))


def dogs(*numbers):
    return [
        photo(id=f"COCO/{i:012d}", file=f"coco/train2017/{i:012d}.jpg", width=40, height=30)
        for i in numbers
    ]


def names_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_archives_are_unpacked_once(host, tmp_path):
    cache = annotations()
    assert cache == tmp_path / "cache" / "mist-bench" / "pascal_coco"
    base = "VOCdevkit/VOC2007"
    assert {name for name in names_below(cache) if not name.startswith(".")} == {
        *(f"{base}/JPEGImages/{name}.jpg" for name in "ab"),
        *(f"{base}/Annotations/{name}.xml" for name in "ab"),
        *(f"{base}/ImageSets/Main/{name}.txt" for name in "ab"),
        *(f"coco/annotations/instances_{name}2017.json" for name in ("train", "val")),
    }
    assert [each.id for each in read_voc(cache, "VOC2007").photographs] == [
        "VOC2007/a",
        "VOC2007/b",
    ]
    assert annotations() == cache
    assert host.asked == {TRAINVAL: 1, TEST: 1, ZIP: 1}


def test_only_what_is_asked_for_is_fetched(host):
    annotations("COCO")
    assert set(host.asked) == {ZIP}


def test_an_archive_that_is_there_is_not_fetched_again(host):
    cache = annotations("VOC2007")
    (cache / f".{TEST.rpartition('/')[2]}.done").unlink()  # killed while it was unpacked
    (cache / "VOCdevkit/VOC2007/JPEGImages/b.jpg").write_bytes(b"part of it")
    annotations("VOC2007")
    assert host.asked == {TRAINVAL: 1, TEST: 2}
    assert (cache / "VOCdevkit/VOC2007/JPEGImages/b.jpg").read_bytes() == (
        cache / "VOCdevkit/VOC2007/JPEGImages/a.jpg"
    ).read_bytes()


def test_an_archive_of_another_content_is_refused(host, tmp_path):
    (host.folder / ZIP).write_bytes(b"hello")
    with pytest.raises(
        ValueError, match=r"annotations_trainval2017.zip: download failed"
    ) as caught:
        annotations("COCO")
    assert "\n" not in str(caught.value)
    assert names_below(tmp_path / "cache") == {"mist-bench/pascal_coco/.lock"}


def test_an_archive_that_cannot_be_unpacked(host, monkeypatch):
    digest = md5(b"hello").hexdigest()
    for name, file in (("VOC2007", TRAINVAL), ("COCO", ZIP)):
        (host.folder / file).write_bytes(b"hello")
        monkeypatch.setitem(photographs.ARCHIVES, name, {file: digest})
        with pytest.raises(ValueError, match="cannot be unpacked"):
            annotations(name)


def test_years_that_cannot_be_downloaded():
    with pytest.raises(
        ValueError, match="VOC2010 cannot be downloaded: VOC2007, VOC2012, COCO can"
    ):
        fetch_annotations(["VOC2010"])


def test_photographs_come_once(host):
    cache = annotations("COCO")
    assert fetch_images(cache, dogs(3, 5)) == []
    assert fetch_images(cache, dogs(5, 7)) == []
    assert host.asked == {ZIP: 1, **{f"train2017/{i:012d}.jpg": 1 for i in (3, 5, 7)}}
    for i in (3, 5, 7):
        name = f"train2017/{i:012d}.jpg"
        assert (cache / "coco" / name).read_bytes() == (host.folder / name).read_bytes()


def test_photographs_that_do_not_come_are_told_of(host):
    cache = annotations("COCO")
    files = [host.folder / "train2017" / f"{i:012d}.jpg" for i in DOGS]
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-300])
    write_image(files[2], 30, 40)
    files[3].write_text("<html>please log in</html>")
    problems = fetch_images(cache, dogs(1, 2, 3, 4, 5))
    assert [(each.photo[-1], each.reason) for each in problems] == [
        ("1", "missing image"),
        ("2", "broken image"),
        ("3", "image of another size"),
        ("4", "broken image"),
    ]
    assert problems[0].detail == f"{host.url}/train2017/000000000001.jpg: HTTP 404"
    assert {name for name in names_below(cache / "coco") if name.endswith("jpg")} == {
        "train2017/000000000005.jpg"
    }
    assert not [path for path in cache.iterdir() if path.name.startswith("tmp")]


def test_a_photograph_of_voc_is_not_looked_for_at_cocos(host):
    cache = annotations("COCO")
    lost = photo(id="VOC2007/a", file="VOCdevkit/VOC2007/JPEGImages/a.jpg")
    assert fetch_images(cache, [lost, *dogs(1)]) == []
    assert set(host.asked) == {ZIP, "train2017/000000000001.jpg"}


def test_a_body_that_is_cut_off_stops_the_download(host, monkeypatch):
    def send(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"\xff\xd8")

    cache = annotations("COCO")
    monkeypatch.setattr(Handler, "do_GET", send)
    with pytest.raises(ValueError, match=r"download failed \(\w+\): try again, or put VOC"):
        fetch_images(cache, dogs(1, 2))
    assert not [name for name in names_below(cache) if name.endswith("jpg")]


@pytest.mark.parametrize(
    "fetch",
    [lambda host: annotations(), lambda host: fetch_images(host.folder, dogs(1))],
    ids=["annotations", "images"],
)
def test_no_network_is_said_at_once_with_what_to_do(host, monkeypatch, fetch):
    monkeypatch.setattr(photographs, "reachable", lambda url: False)
    with pytest.raises(ValueError, match=r"download failed \(no connection\): try again") as caught:
        fetch(host)
    message = str(caught.value)
    assert "put VOCdevkit/VOC2007" in message
    assert "annotations/instances_train2017.json and train2017/*.jpg" in message
    assert "give it as root with download: false" in message
    assert "\n" not in message
    assert not host.asked


def test_no_network_is_needed_for_what_is_there(host, monkeypatch):
    cache = annotations()
    fetch_images(cache, dogs(1))
    monkeypatch.setattr(photographs, "reachable", lambda url: False)
    assert annotations() == cache
    assert fetch_images(cache, dogs(1)) == []


def test_a_dataset_by_download(host):
    """Only photographs that the filters keep and the split asks for are fetched."""
    params = PARAMS | {"download": True, "sources": ["VOC2007", "COCO"]}
    made = make_split("train", 3, np.random.default_rng(0), **params)
    index = [each["id"] for each in json.loads(made.files["train_index.json"])]
    assert len(index) == 3
    fetched = {name for name in host.asked if name.endswith("jpg")}
    assert fetched == {f"train2017/{name[5:]}.jpg" for name in index if name.startswith("COCO")}
    assert fetched
    assert made.source == (
        "drawn from a sample of 22 photographs of PASCAL VOC (2007) and COCO that the filters keep"
    )


def test_archives_are_those_of_torchvision():
    folder = importlib.util.find_spec("torchvision").submodule_search_locations[0]
    text = Path(folder, "datasets", "voc.py").read_text(encoding="utf-8")
    for name in ("VOC2007", "VOC2012"):
        for file, digest in ARCHIVES[name].items():
            assert re.search(rf'"{photographs.VOC_HOST}/{file}"[^}}]*"md5": "{digest}"', text)
