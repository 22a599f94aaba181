"""Calls of Snakemake, as a user makes them, and what they print."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def command(folder, *arguments, clone=ROOT):
    """Return the command line of Snakemake in ``folder``, with the workflow of a clone."""
    return [sys.executable, "-m", "snakemake", "-s", clone / "Snakefile", "-d", folder, *arguments]


def snakemake(folder, *arguments, clone=ROOT):
    """Return the finished process of Snakemake in ``folder``, with all it printed in ``stdout``."""
    environment = {k: v for k, v in os.environ.items() if k != "SNAKEMAKE_PROFILE"}
    if clone != ROOT:
        environment["PYTHONPATH"] = str(clone / "src")
    return subprocess.run(
        command(folder, *arguments, clone=clone),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=clone,
        env=environment,
        check=False,
    )


def done(folder, *arguments, clone=ROOT):
    """Return what a call of Snakemake printed that must succeed."""
    process = snakemake(folder, *arguments, clone=clone)
    assert process.returncode == 0, process.stdout[-5000:]
    return process.stdout


def jobs(text):
    """Return rule -> number of jobs from the table that a call prints; none if there is no job."""
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)}
