# Images with their instances, made once per preset, and the features that stand in for some.
rule dataset:
    output:
        manifest=f"{DATA}/manifest.json",
        train=f"{DATA}/train.npz",
        val=f"{DATA}/val.npz",
        test=f"{DATA}/test.npz",
    log:
        f"{DATA}.log",
    priority: SOON
    conda:
        "../../environment.yml"
    params:
        spec=dataset_text,
        code=dataset_code,
        files=dataset_files,
    message:
        "dataset {wildcards.dataset}, {wildcards.preset}"
    shell:
        "mist-bench dataset --spec {params.spec:q} --code {params.code}"
        " --manifest {output.manifest:q} > {log:q} 2>&1"


rule features:
    input:
        manifest=f"{DATA}/manifest.json",
        arrays=ancient(multiext(f"{DATA}/", "train.npz", "val.npz", "test.npz")),
    output:
        manifest=f"{FEATURES}/manifest.json",
        maps=multiext(f"{FEATURES}/", "train.npy", "val.npy", "test.npy"),
        instances=multiext(f"{FEATURES}/", "train.npz", "val.npz", "test.npz"),
    log:
        f"{FEATURES}.log",
    priority: SOON
    conda:
        "../../environment.yml"
    resources:
        gpu=feature_gpus,
        device=feature_device,
    params:
        spec=feature_text,
        code=feature_code,
        weights=feature_weights,
    message:
        "features of {wildcards.dataset}, {wildcards.preset}"
    shell:
        "mist-bench features --spec {params.spec:q} --code {params.code}"
        " --dataset {input.manifest:q} --out {output.manifest:q}"
        " --device {resources.device} > {log:q} 2>&1"
