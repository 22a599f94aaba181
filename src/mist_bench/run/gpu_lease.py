"""One GPU for one process, or for as many as the user says: runs never meet on a GPU by chance.

Snakemake counts GPUs (``resources: gpu``) but does not say which is whose, and a call beside it is
not counted at all. So each process that is to work on a GPU locks a place on one of those that it
may see, and sees no other: ``CUDA_VISIBLE_DEVICES`` is set before torch is imported. The system
frees the lock of a process that is killed. Not in the paper.

A GPU has one place, or as many as ``MIST_BENCH_RUNS_PER_GPU`` says: small networks leave most of a
large GPU idle, and what a run computes does not depend on what runs beside it.

The locks are files of one user on one host. GPUs are told apart by the UUIDs that ``nvidia-smi -L``
lists, which starts no CUDA in this process. What ``CUDA_VISIBLE_DEVICES`` says already, of a
cluster's scheduler perhaps, is obeyed. Numbers in it count in the order of that list: on a machine
of unlike GPUs, set ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` too.
"""

import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import product, takewhile
from pathlib import Path

from filelock import FileLock, Timeout

from mist_bench.run.machine import nvidia_smi

VISIBLE = "CUDA_VISIBLE_DEVICES"
SHARE = "MIST_BENCH_RUNS_PER_GPU"
PAUSE = 1.0  # seconds between two looks for a free place
logger = logging.getLogger("mist_bench")


@contextmanager
def gpu_lease(device: str) -> Iterator[None]:
    """Hold a place on a GPU while the context lasts, if ``device`` is not ``cpu`` and there is any.

    Where all are taken, wait for one. Where none can be told from another, hold none: torch then
    says itself what is missing.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: if ``MIST_BENCH_RUNS_PER_GPU`` is not a number above 0.
        OSError: if the folder of the locks is not this user's, or the parent process died while
            this one waited, so that nobody wants its result any more.
    """
    gpus = {} if device == "cpu" else visible_gpus(listed_gpus(), os.environ.get(VISIBLE))
    if not gpus:
        yield
        return
    lock, name = take(gpus, lock_folder(), places(os.environ.get(SHARE, "1")))
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = name
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    logger.info("on GPU %s", name)
    try:
        yield
    finally:
        lock.release()
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before


def listed_gpus() -> list[str]:
    """Return the UUIDs of all GPUs of this machine that this process may use, in their order."""
    return re.findall(r"^GPU \d+:.*\(UUID: ([^)\s]+)\)", nvidia_smi("-L"), re.MULTILINE)


def visible_gpus(listed: list[str], visible: str | None) -> dict[str, str]:
    """Return what ``CUDA_VISIBLE_DEVICES`` can be set to for each GPU to choose from.

    Args:
        listed: UUIDs of the machine's GPUs.
        visible: present value of ``CUDA_VISIBLE_DEVICES``; ``None`` if it is not set.

    Returns:
        UUID -> name, the first preferred. As in CUDA, the list ends at the first name that stands
        for no GPU: of a number without a list of UUIDs, nobody knows which GPU it is.
    """
    if visible is None:
        return {uuid: uuid for uuid in listed}
    names = [name.strip() for name in visible.split(",")]
    found = takewhile(lambda pair: pair[0], ((full_uuid(listed, name), name) for name in names))
    return dict(found)


def full_uuid(listed: list[str], name: str) -> str:
    """Return the UUID that a name in ``CUDA_VISIBLE_DEVICES`` stands for; "" if none is known."""
    if name.isdecimal():
        return listed[int(name)] if int(name) < len(listed) else ""
    if name.startswith("MIG-"):  # a part of a GPU, which has its own UUID
        return name
    matches = [uuid for uuid in listed if name and uuid.startswith(name)]
    return matches[0] if len(matches) == 1 else ""


def places(given: str) -> int:
    """Return how many processes may be on a GPU, a number above 0."""
    if not (given.isascii() and given.isdecimal() and int(given)):
        raise ValueError(f"{SHARE} must be a number of processes from 1, got {given!r}")
    return int(given)


def take(gpus: Mapping[str, str], folder: Path, share: int = 1) -> tuple[FileLock, str]:
    """Return the lock of the first place that is or becomes free, and the name of its GPU.

    Args:
        gpus: UUID -> name.
        folder: of the locks.
        share: places of each GPU; all first ones are taken before any second.

    Raises:
        OSError: if the parent process died meanwhile.
    """
    parent, waited = os.getppid(), False
    while True:
        for place, (uuid, name) in product(range(share), gpus.items()):
            lock = FileLock(folder / f"{uuid.replace('/', '_')}.{place}.lock")
            with suppress(Timeout):
                lock.acquire(timeout=0)
                return lock, name
        if not waited:
            logger.info("all GPUs are taken (%d): waiting for one", len(gpus))
            waited = True
        time.sleep(PAUSE)
        if os.getppid() != parent:
            raise OSError("the process that asked for this run has died: nothing was started")


def lock_folder() -> Path:
    """Return the folder of the locks, which all runs of this user on this host share.

    Raises:
        OSError: if another user has made it.
    """
    folder = Path(tempfile.gettempdir(), f"mist-bench-gpus-{os.getuid()}")
    with suppress(FileExistsError):  # a file or a link of that name
        folder.mkdir(mode=0o700)
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
        raise OSError(f"{folder}: is no folder of this user's; remove it or set TMPDIR")
    return folder
