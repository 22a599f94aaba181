# Images with their instances, made once per preset, and the features that stand in for some.
# Files of the user's are inputs so that Snakemake shows them, and ancient: what tells that they
# changed is a digest in params, since the time of a folder is not that of the files inside it.
rule dataset:
    """Make the images of a dataset with their instances: train, val and test split."""
    input:
        ancient(source_files),
    output:
        manifest=f"{DATA}/manifest.json",
        train=f"{DATA}/train.npz",
        val=f"{DATA}/val.npz",
        test=f"{DATA}/test.npz",
    log:
        f"{DATA}.log",
    priority: SOON
    params:
        spec=text(dataset_of),
        code=code("dataset", dataset_of),
        files=source_digest,
    message:
        "dataset {wildcards.dataset}, {wildcards.preset}"
    shell:
        "mist-bench dataset --spec {params.spec:q} --code {params.code}"
        " --manifest {output.manifest:q} > {log:q} 2>&1"


rule features:
    """Compute the features of a frozen backbone that methods see instead of a dataset's images."""
    input:
        ancient(weight_files),
        manifest=f"{DATA}/manifest.json",
        arrays=ancient(multiext(f"{DATA}/", "train.npz", "val.npz", "test.npz")),
    output:
        manifest=f"{FEATURES}/manifest.json",
        maps=multiext(f"{FEATURES}/", "train.npy", "val.npy", "test.npy"),
        instances=multiext(f"{FEATURES}/", "train.npz", "val.npz", "test.npz"),
    log:
        f"{FEATURES}.log",
    priority: SOON
    resources:
        gpu=gpus_of,
        device=device_of,
    params:
        spec=text(features_of),
        code=code("features", features_of),
        weights=weights_digest,
    message:
        "features of {wildcards.dataset}, {wildcards.preset}"
    shell:
        "mist-bench features --spec {params.spec:q} --code {params.code}"
        " --dataset {input.manifest:q} --out {output.manifest:q}"
        " --device {resources.device} > {log:q} 2>&1"
