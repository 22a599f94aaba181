"""``mist-bench bench``: one kind of benchmark, from its options to what it prints."""

from __future__ import annotations

import argparse

from mist_bench.bench import records
from mist_bench.bench.compare import bench_official
from mist_bench.bench.learning import bench_learning
from mist_bench.bench.memory import bench_memory
from mist_bench.bench.methods import bench_methods
from mist_bench.bench.scaling import bench_scaling
from mist_bench.bench.sharing import bench_sharing
from mist_bench.bench.stages import bench_stages


def run(options: argparse.Namespace) -> None:
    """Run the benchmark ``options.kind`` and print what was found."""
    if options.kind == "scaling":
        points = bench_scaling(options.out, preset=options.preset, repeats=options.repeats)
        text = records.points_text(points)
    elif options.kind == "learning":
        rows = bench_learning(
            options.out,
            preset=options.preset,
            experiment=options.experiment,
            method=options.method,
            reach=options.reach,
            every=options.every,
            images=options.images,
            limit=options.limit,
        )
        text = records.rows_text(rows)
    elif options.kind == "memory":
        text = records.points_text(bench_memory(options.out, preset=options.preset))
    elif options.kind == "methods":
        rows = bench_methods(
            options.out,
            preset=options.preset,
            experiment=options.experiment,
            repeats=options.repeats,
        )
        text = records.rows_text(rows)
    elif options.kind == "sharing":
        rows = bench_sharing(
            options.out,
            preset=options.preset,
            experiment=options.experiment,
            method=options.method,
            device=options.device,
            runs=options.runs,
        )
        text = records.rows_text(rows)
    elif options.kind == "official":
        text = records.rows_text(bench_official(options.out, repeats=options.repeats))
    else:
        rows = bench_stages(
            options.out,
            preset=options.preset,
            experiment=options.experiment,
            method=options.method,
            repeats=options.repeats,
            only=options.only,
            against=options.against,
        )
        text = records.rows_text(rows)
    print(text)
