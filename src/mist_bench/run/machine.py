"""The machine a result was made on: versions, hardware and commit; no host name and no path."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONS = ("torch", "torchvision", "numpy", "scipy", "safetensors", "mist-bench")


def machine() -> dict[str, Any]:
    """Return what may explain a difference between two runs of the same code."""
    gpus = nvidia_smi("--query-gpu=name", "--format=csv,noheader")
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in VERSIONS},
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "gpu": ", ".join(gpus.splitlines()) or None,
    }


def commit() -> str | None:
    """Return the git commit of the code, with ``-dirty`` after an edit; ``None`` outside git."""
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if changed else head


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return name[1].strip() if name else platform.processor() or platform.machine()


def nvidia_smi(*arguments: str) -> str:
    """Return what ``nvidia-smi`` prints; nothing where it is missing or fails."""
    command = ["nvidia-smi", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
