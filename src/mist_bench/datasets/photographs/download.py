"""PASCAL VOC's and COCO's photographs by download: what is whole is not fetched again.

VOC comes as archives. COCO's 19 GB of photographs are not fetched: only its annotations, and then,
one by one, the photographs that are wanted. Archives and these photographs have their names only
once they are whole and verified; what an archive holds counts once its marker, ``.NAME.done``, is
there.
"""

from __future__ import annotations

import logging
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pooch
import requests
from filelock import FileLock
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from mist_bench.datasets.photographs.annotations import Photograph, Problem, UnusableError
from mist_bench.datasets.photographs.crops import open_image
from mist_bench.datasets.sources import TIMEOUT, SourceError, reachable

VOC_HOST = "https://thor.robots.ox.ac.uk/pascal/VOC"  # as in torchvision.datasets.VOCDetection
COCO_HOST = "http://images.cocodataset.org"
# file -> md5, by set: as in torchvision and of the file that COCO's host gives out
ARCHIVES = {
    "VOC2007": {
        "voc2007/VOCtrainval_06-Nov-2007.tar": "c52e279531787c972589f7e41ab4ae64",
        "voc2007/VOCtest_06-Nov-2007.tar": "b6e924de25625d8de591ea690078ad9f",
    },
    "VOC2012": {
        "voc2012/VOCtrainval_11-May-2012.tar": "6cd6e144f989b92b3379bac3b3de84fd",
    },
    "COCO": {
        "annotations/annotations_trainval2017.zip": "f4bbac642086de4f52a3fdda2de5fa2c",
    },
}
# what is used of a VOC archive: only names that stay below its folder
USED = re.compile(r"VOCdevkit/VOC\d{4}/(JPEGImages|Annotations|ImageSets/Main)/\w[\w.-]*", re.ASCII)
COCO_FOLDER = "coco"  # one of coco.PLACES
COCO_IMAGES = ("train2017", "val2017")
COCO_IDS = "COCO/"  # what its photographs' ids begin with
CONNECTIONS = 8  # photographs on their way at a time
RETRIES = Retry(total=3, backoff_factor=0.5, status_forcelist=(500, 502, 503, 504))
MANUAL = (
    "or put VOCdevkit/VOC2007 and VOCdevkit/VOC2012, COCO's annotations/instances_train2017.json "
    "and train2017/*.jpg, or some of them, into a folder, and give it as root with download: false"
)

logger = logging.getLogger(__name__)


def fetch_annotations(sources: Sequence[str]) -> Path:
    """Return the cache's folder after VOC's archives and COCO's annotations have come into it.

    Raises:
        ValueError: if there is no such archive, or the network does not give one; the message
            says what to do instead.
        OSError: if the disk refuses.
    """
    if unknown := [name for name in sources if name not in ARCHIVES]:
        raise SourceError(f"sources: {unknown[0]} cannot be downloaded: {', '.join(ARCHIVES)} can")
    cache = Path(pooch.os_cache("mist-bench")) / "pascal_coco"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):  # no other process fills it
        for name in sources:
            host, unpack = (COCO_HOST, _unzip) if name == "COCO" else (VOC_HOST, _untar)
            for file, md5 in ARCHIVES[name].items():
                marker = cache / f".{PurePosixPath(file).name}.done"
                if marker.exists():
                    continue
                archive = _retrieve(f"{host}/{file}", md5, cache)
                try:
                    unpack(archive, cache)
                except (tarfile.TarError, zipfile.BadZipFile, KeyError) as error:
                    raise SourceError(f"{archive}: cannot be unpacked ({error})") from None
                marker.touch()
                archive.unlink()
    return cache


def fetch_images(folder: Path, photos: Sequence[Photograph]) -> list[Problem]:
    """Bring those of ``photos`` that are COCO's into ``folder``; return why some do not come.

    Args:
        folder: what ``fetch_annotations`` returned.
        photos: photographs of VOC, which came with its archives, and of COCO.

    Raises:
        ValueError: if the host cannot be reached; the message says what to do instead.
        OSError: if the disk refuses.
    """
    absent = [photo for photo in photos if not (folder / photo.file).is_file()]
    wanted = [photo for photo in absent if photo.id.startswith(COCO_IDS)]
    if not wanted:
        return []
    logger.info("%d photographs of COCO are fetched", len(wanted))
    _require(COCO_HOST)
    with (
        FileLock(folder / ".lock"),
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        requests.Session() as session,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        session.mount("http://", HTTPAdapter(pool_maxsize=CONNECTIONS, max_retries=RETRIES))

        def fetch(photo: Photograph) -> Problem | None:
            return _fetch_image(session, folder, photo, Path(scratch))

        try:
            return [problem for problem in pool.map(fetch, wanted) if problem is not None]
        except requests.RequestException as error:
            raise _failure(COCO_HOST, type(error).__name__) from None
        finally:
            pool.shutdown(cancel_futures=True)  # after an error, the rest is not begun


def _fetch_image(
    session: requests.Session, folder: Path, photo: Photograph, scratch: Path
) -> Problem | None:
    """Bring one photograph of COCO into ``folder``; return why it does not come, if so."""
    target = folder / photo.file
    if target.is_file():  # another process was faster
        return None
    name = PurePosixPath(photo.file).relative_to(COCO_FOLDER).as_posix()
    answer = session.get(url := f"{COCO_HOST}/{name}", timeout=TIMEOUT)
    partial = scratch / name.replace("/", "-")
    try:
        if answer.status_code != requests.codes.ok:
            raise UnusableError("missing image", f"HTTP {answer.status_code}")
        partial.write_bytes(answer.content)
        open_image(partial, (photo.width, photo.height))
    except UnusableError as problem:
        return Problem(photo.id, photo.file, problem.reason, f"{url}: {problem.detail}")
    os.replace(partial, target)
    return None


def _retrieve(url: str, md5: str, folder: Path) -> Path:
    """Return an archive, verified, after downloading it to ``folder``."""
    _require(url)
    name, downloader = PurePosixPath(url).name, pooch.HTTPDownloader(timeout=TIMEOUT)
    try:
        return Path(pooch.retrieve(url, f"md5:{md5}", name, folder, downloader=downloader))
    except (requests.RequestException, ValueError) as error:
        raise _failure(url, type(error).__name__) from None


def _untar(archive: Path, folder: Path) -> None:
    """Unpack what is used of a VOC archive."""
    with tarfile.open(archive) as tar:
        used = (each for each in tar if each.isfile() and USED.fullmatch(each.name))
        tar.extractall(folder, used, filter="data")


def _unzip(archive: Path, folder: Path) -> None:
    """Unpack COCO's annotations of objects, and make the folders of its photographs."""
    for name in COCO_IMAGES:
        (folder / COCO_FOLDER / name).mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as file:
        for name in COCO_IMAGES:
            file.extract(f"annotations/instances_{name}.json", folder / COCO_FOLDER)


def _require(url: str) -> None:
    """Raise a ``SourceError`` unless the host of ``url`` answers."""
    if not reachable(url):
        raise _failure(url, "no connection")


def _failure(url: str, reason: str) -> SourceError:
    return SourceError(f"{url}: download failed ({reason}): try again, {MANUAL}")
