# What the rules and targets are given: specifications, digests of code, files, resources.
DIGIT_SCENES = "mist_bench.datasets.multi_mnist"  # what reads MNIST


def dataset_of(wildcards):
    """Return the specification of the dataset that a path names."""
    preset = config_of(wildcards.preset)
    with one_line("target"):
        settings.check_names("dataset", [wildcards.dataset], preset.datasets)
        return settings.dataset_spec(preset, wildcards.dataset)


def features_of(wildcards):
    """Return the specification of the features of the dataset that a path names."""
    preset = config_of(wildcards.preset)
    with one_line("target"):
        settings.check_names("dataset", [wildcards.dataset], preset.datasets)
        return settings.feature_spec(preset, wildcards.dataset)


def run_of(wildcards):
    """Return the specification of the run that a path names, whether or not a table needs it."""
    preset = config_of(wildcards.preset)
    run = wildcards.experiment, wildcards.method
    with one_line("target"):
        targets.check_run(preset, *run)
        return settings.run_spec(preset, *run, int(wildcards.seed))


def text(spec_of):
    """Return a function of wildcards: the specification by ``spec_of`` as JSON."""

    def spec_text(wildcards):
        return settings.canonical(spec_of(wildcards))

    return spec_text


def code(stage, spec_of):
    """Return a function of wildcards: the digest of what a stage runs for the specification."""

    def stage_code(wildcards):
        spec = spec_of(wildcards)
        return provenance.digest(stage, getattr(spec, "network", spec).module)

    return stage_code


def source_files(wildcards):
    """Return what of the user's a dataset is made from: the root of photographs, MNIST's files."""
    spec = dataset_of(wildcards)
    digits = os.environ.get(outside.DIGITS)
    if root := spec.params.get("root"):
        found = [Path(root).expanduser()]
    elif digits and DIGIT_SCENES in provenance.closure(spec.module):
        places = [Path(digits, place) for place in outside.DIGIT_PLACES]
        found = [path for place in places for path in place.glob("*-ubyte*")]
    else:
        found = []
    return sorted({path for path in found if path.exists()})


def source_digest(wildcards):
    """Return a hash of names, sizes and times of these; no file of photographs is opened."""
    spec = dataset_of(wildcards)
    if root := spec.params.get("root"):
        return outside.tree_digest(Path(root).expanduser())
    if DIGIT_SCENES in provenance.closure(spec.module):
        return outside.digits_digest(os.environ.get(outside.DIGITS))
    return ""


def weight_files(wildcards):
    """Return the file that a backbone's weights come from, if one is named and there."""
    path = features_of(wildcards).network.params.get("weights")
    file = Path(path or "").expanduser()
    return [file] if path and file.is_file() else []


def weights_digest(wildcards):
    return "".join(provenance.file_digest(file) for file in weight_files(wildcards))


def truth_manifest(wildcards):
    """Return the manifest of the images of a run."""
    folder = Path("results", wildcards.preset, "datasets", run_of(wildcards).dataset)
    return folder / "manifest.json"


def seen_manifest(wildcards):
    """Return the manifest of what a run's method sees: images or their features."""
    preset, name = config_of(wildcards.preset), run_of(wildcards).dataset
    return targets.input_folder(preset, name) / "manifest.json"


def split_of(wildcards):
    return wildcards.get("prefix", "").removesuffix("_") or "test"


def arrays_beside(manifest, *splits):
    """Return the files of splits beside a manifest: of features, each split has two."""
    suffixes = ["npz", "npy"] if manifest.parts[2] == "features" else ["npz"]
    return [
        manifest.with_name(f"{split}.{suffix}")
        for split in splits
        for suffix in suffixes
    ]


def training_arrays(wildcards):
    return arrays_beside(seen_manifest(wildcards), "train", "val")


def seen_arrays(wildcards):
    return arrays_beside(seen_manifest(wildcards), split_of(wildcards))


def truth_arrays(wildcards):
    return arrays_beside(truth_manifest(wildcards), split_of(wildcards))


def threads_of(wildcards):
    return run_of(wildcards).training.threads


def device_of(wildcards):
    return config_of(wildcards.preset).device


def gpus_of(wildcards):
    """Return 1 where a network will run on a GPU, so that jobs queue for it."""
    device = device_of(wildcards)
    found = device == "auto" and shutil.which("nvidia-smi") is not None
    return int(device == "cuda" or found)


@cache
def measured_seconds(preset):
    """Return (experiment, method) -> seconds of a training step in the reference results."""
    origin = Path(workflow.basedir, "results", "reference", preset, "origin.json")
    return outside.step_seconds(origin)


def urgency(wildcards):
    """Return the priority of a training: the longest first, lest a core has none at the end.

    From 0 to 1, for trainings without end and those that were never measured, which may be long.
    """
    run = wildcards.experiment, wildcards.method
    if run not in measured_seconds(wildcards.preset):
        return 1
    seconds = measured_seconds(wildcards.preset)[run] * run_of(wildcards).training.steps
    return seconds / (seconds + 600)  # rising; half a point for ten minutes


def config_text(wildcards):
    return settings.canonical(config_of(wildcards.preset))


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


def generic_tables(preset):
    """Return the table that each experiment of a preset has."""
    return [f"{targets.GENERIC}{name}" for name in config_of(preset).experiments]


def scores_of(preset, table):
    """Return what a table is made from: a file of each of its runs."""
    chosen = config_of(preset)
    with one_line("target"):
        settings.check_names("table", [table], targets.tables(chosen))
    runs = targets.table_runs(chosen, table, PAPER)
    return files_of(preset, runs, targets.table_input(table))


def table_scores(wildcards):
    return scores_of(wildcards.preset, wildcards.table)


def further_tables(wildcards):
    """Return tables beside the paper's that were made of all their runs: the report keeps them."""
    results = Path("results", wildcards.preset)
    names = targets.extended_made(config_of(wildcards.preset), results)
    return [results / "tables" / f"{name}.csv" for name in names]


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


def tables_of(preset, *names):
    """Return tables and the scores behind them, so that what is missing is made again."""
    tables = [Path("results", preset, "tables", f"{name}.csv") for name in names]
    scores = [path for name in names for path in scores_of(preset, name)]
    return tables + sorted(set(scores))


def figures_of(preset):
    return [
        Path("results", preset, "figures", f"{name}.png") for name in targets.FIGURES
    ]


def report_of(preset):
    return Path("results", preset, "report", "index.html")


def all_of(preset):
    tables = tables_of(preset, *targets.TABLES)
    return [*tables, *figures_of(preset), report_of(preset)]


def everything(wildcards):
    return all_of(PRESET)


def everything_small(wildcards):
    return all_of(PRESET if PRESET.startswith("smoke") else "smoke")
