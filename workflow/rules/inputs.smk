# Which files each rule and target asks for.
def truth_manifest(wildcards):
    """Return the manifest of the images of a run."""
    folder = Path("results", wildcards.preset, "datasets", run_of(wildcards).dataset)
    return folder / "manifest.json"


def run_manifest(wildcards):
    """Return the manifest of what a run's method sees: images or their features."""
    preset, name = config_of(wildcards.preset), run_of(wildcards).dataset
    return targets.input_folder(preset, name) / "manifest.json"


def arrays_beside(manifest, *splits):
    """Return the files of splits beside a manifest: of features, each split has two."""
    suffixes = ["npz", "npy"] if manifest.parts[2] == "features" else ["npz"]
    return [
        manifest.with_name(f"{split}.{suffix}")
        for split in splits
        for suffix in suffixes
    ]


def training_arrays(wildcards):
    return arrays_beside(run_manifest(wildcards), "train", "val")


def test_arrays(wildcards):
    return arrays_beside(run_manifest(wildcards), "test")


def truth_arrays(wildcards):
    return arrays_beside(truth_manifest(wildcards), "test")


def truth_val_arrays(wildcards):
    return arrays_beside(truth_manifest(wildcards), "val")


def files_of(preset, runs, *names):
    """Return the named files in the folders of runs."""
    folders = [targets.run_folder(Path("results", preset), *run) for run in runs]
    return [folder / name for folder in folders for name in names]


def all_metrics(wildcards):
    preset = config_of(wildcards.preset)
    runs = [
        run
        for name in preset.experiments
        for run in targets.experiment_runs(preset, name)
    ]
    runs += targets.evaluated_rivals(preset, Path("results", wildcards.preset))
    return files_of(wildcards.preset, runs, "metrics.json")


def extended_tables(wildcards):
    """Return the extended tables that were made of all their runs: the report keeps them fresh."""
    results = Path("results", wildcards.preset)
    names = targets.extended_made(config_of(wildcards.preset), results)
    return [results / "tables" / f"{name}.csv" for name in names]


def table_metrics(wildcards):
    runs = targets.table_runs(config_of(wildcards.preset), wildcards.table, PAPER)
    return files_of(wildcards.preset, runs, "metrics.json")


def calibration_metrics(wildcards):
    """Return the metrics of the candidate generators of MNIST-hard."""
    preset = config_of(wildcards.preset)
    names = [name for name in preset.experiments if name.startswith("calibrate_")]
    runs = [run for name in names for run in targets.experiment_runs(preset, name)]
    return files_of(wildcards.preset, runs, "metrics.json")


def tuning_scores(wildcards):
    """Return the metrics of the candidate parameters on the val split."""
    preset = config_of(wildcards.preset)
    names = [name for name in preset.experiments if name.startswith("tune_")]
    runs = [run for name in names for run in targets.experiment_runs(preset, name)]
    return files_of(wildcards.preset, runs, "val_metrics.json")


def figure_files(wildcards):
    """Return what a figure is drawn from: images, predictions or stages, the course of training."""
    preset = config_of(wildcards.preset)
    runs = targets.figure_runs(preset, wildcards.figure)
    datasets = {preset.experiments[experiment].dataset for experiment, _, _ in runs}
    source = targets.figure_input(wildcards.figure)
    return files_of(wildcards.preset, runs, source, "train.csv") + [
        Path("results", wildcards.preset, "datasets", name, "manifest.json")
        for name in sorted(datasets)
    ]


def figure_arrays(wildcards):
    split = targets.figure_split(wildcards.figure)
    return [
        path.with_name(f"{split}.npz")
        for path in figure_files(wildcards)
        if path.name == "manifest.json"
    ]


def manifests(wildcards):
    """Return the manifests of the datasets that some experiment or a run of it uses."""
    chosen = config_of()
    names = {setup.dataset for setup in chosen.experiments.values()}
    names |= {
        own.dataset
        for method in chosen.methods.values()
        for own in method.experiments.values()
        if own.dataset
    }
    return [
        targets.input_folder(chosen, name) / "manifest.json" for name in sorted(names)
    ]


def table_of(preset, *names):
    """Return tables and the metrics behind them, so that what is missing is made again."""
    runs = {
        run
        for name in names
        for run in targets.table_runs(config_of(preset), name, PAPER)
    }
    tables = [Path("results", preset, "tables", f"{name}.csv") for name in names]
    return tables + files_of(preset, sorted(runs), "metrics.json")


def tables_of(preset):
    return table_of(preset, *targets.TABLES)


def figures_of(preset):
    return [
        Path("results", preset, "figures", f"{name}.png") for name in targets.FIGURES
    ]


def report_of(preset):
    return Path("results", preset, "report", "index.html")


def all_tables(wildcards):
    return tables_of(PRESET)


def everything(wildcards):
    return [*tables_of(PRESET), *figures_of(PRESET), report_of(PRESET)]


def everything_small(wildcards):
    small = PRESET if PRESET.startswith("smoke") else "smoke"
    return [*tables_of(small), *figures_of(small), report_of(small)]
