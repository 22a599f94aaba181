# Images with their instances, made once per preset.
rule dataset:
    output:
        manifest=f"{DATA}/manifest.json",
        train=f"{DATA}/train.npz",
        val=f"{DATA}/val.npz",
        test=f"{DATA}/test.npz",
    log:
        f"{DATA}.log",
    conda:
        "../../environment.yml"
    params:
        spec=dataset_text,
        code=dataset_code,
    message:
        "dataset {wildcards.dataset}, {wildcards.preset}"
    shell:
        "mist-bench dataset --spec {params.spec:q} --code {params.code}"
        " --manifest {output.manifest:q} > {log:q} 2>&1"
