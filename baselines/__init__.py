"""One file per competitor; each exposes ``build(task, **params)``, as ``mist_bench.types`` asks."""
