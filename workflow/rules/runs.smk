# One run is one method on one experiment with one seed: train, predict, evaluate.
# Arrays are ancient: the small manifest beside them holds their digests.
# exec: the trainer's parent is Snakemake itself, so that it notices when Snakemake is killed.
# gpu: how many jobs may be on GPUs at a time; which GPU is whose, mist-bench settles by locks.
rule train:
    """Train one run; an interrupted one continues from its last checkpoint."""
    input:
        manifest=seen_manifest,
        arrays=ancient(training_arrays),
    output:
        spec=f"{RUN}/config.json",
        train=f"{RUN}/train.csv",
        val=f"{RUN}/val.csv",
        heatmaps=f"{RUN}/heatmaps.npz",
        weights=f"{RUN}/weights.safetensors",
        record=f"{RUN}/run.json",
    log:
        f"{RUN}/train.log",
    benchmark:
        f"{RUN}/benchmark.tsv"
    priority: urgency
    threads: threads_of
    resources:
        gpu=gpus_of,
        device=device_of,
    params:
        spec=text(run_of),
        code=code("train", run_of),
    message:
        "train {wildcards.method} on {wildcards.experiment}, seed {wildcards.seed}, {wildcards.preset}"
    shell:
        "exec mist-bench train --spec {params.spec:q} --code {params.code}"
        " --manifest {input.manifest:q} --record {output.record:q}"
        " --work results/{wildcards.preset}/work --device {resources.device} > {log:q} 2>&1"


# Hyper-parameters are chosen by val_predictions.npz and val_metrics.json: no test image is looked at.
rule predict:
    """Store what a trained run predicts for a split: test, or val (val_predictions.npz)."""
    input:
        manifest=seen_manifest,
        arrays=ancient(seen_arrays),
        weights=f"{RUN}/weights.safetensors",
    output:
        f"{RUN}/{{prefix}}predictions.npz",
    log:
        f"{RUN}/{{prefix}}predict.log",
    priority: SOON
    threads: threads_of
    resources:
        gpu=gpus_of,
        device=device_of,
    params:
        spec=text(run_of),
        code=code("predict", run_of),
        split=split_of,
    message:
        "predict {params.split} by {wildcards.method} on {wildcards.experiment}, seed {wildcards.seed}, {wildcards.preset}"
    shell:
        "mist-bench predict --spec {params.spec:q} --code {params.code}"
        " --manifest {input.manifest:q} --weights {input.weights:q} --out {output:q}"
        " --split {params.split} --device {resources.device} > {log:q} 2>&1"


rule trace:
    """Store what every stage of a trained MIST makes of one image (Figure 1)."""
    input:
        manifest=seen_manifest,
        arrays=ancient(seen_arrays),
        weights=f"{RUN}/weights.safetensors",
    output:
        f"{RUN}/trace.npz",
    log:
        f"{RUN}/trace.log",
    priority: SOON
    threads: threads_of
    resources:
        gpu=gpus_of,
        device=device_of,
    params:
        spec=text(run_of),
        code=code("trace", run_of),
    message:
        "trace {wildcards.method} on {wildcards.experiment}, seed {wildcards.seed}, {wildcards.preset}"
    shell:
        "mist-bench trace --spec {params.spec:q} --code {params.code}"
        " --manifest {input.manifest:q} --weights {input.weights:q} --out {output:q}"
        " --device {resources.device} > {log:q} 2>&1"


rule evaluate:
    """Compute the metrics of a run from its stored predictions."""
    input:
        manifest=truth_manifest,
        arrays=ancient(truth_arrays),
        predictions=f"{RUN}/{{prefix}}predictions.npz",
    output:
        f"{RUN}/{{prefix}}metrics.json",
    log:
        f"{RUN}/{{prefix}}evaluate.log",
    priority: SOON
    params:
        spec=text(run_of),
        code=provenance.digest("evaluate"),
        split=split_of,
    message:
        "evaluate {params.split} of {wildcards.method} on {wildcards.experiment}, seed {wildcards.seed}, {wildcards.preset}"
    shell:
        "mist-bench evaluate --spec {params.spec:q} --code {params.code}"
        " --manifest {input.manifest:q} --predictions {input.predictions:q} --out {output:q}"
        " --split {params.split} > {log:q} 2>&1"
