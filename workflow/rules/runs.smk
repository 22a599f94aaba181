# One run is one method on one experiment with one seed: train, predict, evaluate.
# Arrays are ancient: the small manifest beside them holds their digests.
# exec: the trainer's parent is Snakemake itself, so that it notices when Snakemake is killed.
# gpu: how many jobs may be on GPUs at a time; which GPU is whose, mist-bench settles by locks.
rule train:
    input:
        manifest=run_manifest,
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
    conda:
        "../../environment.yml"
    threads: run_threads
    resources:
        gpu=run_gpus,
        device=run_device,
    params:
        spec=run_text,
        code=train_code,
    message:
        "train {wildcards.method} on {wildcards.experiment}, seed {wildcards.seed}, {wildcards.preset}"
    shell:
        "exec mist-bench train --spec {params.spec:q} --code {params.code}"
        " --manifest {input.manifest:q} --record {output.record:q}"
        " --work results/{wildcards.preset}/work --device {resources.device} > {log:q} 2>&1"


rule predict:
    input:
        manifest=run_manifest,
        arrays=ancient(test_arrays),
        weights=f"{RUN}/weights.safetensors",
    output:
        f"{RUN}/predictions.npz",
    log:
        f"{RUN}/predict.log",
    priority: SOON
    conda:
        "../../environment.yml"
    threads: run_threads
    resources:
        gpu=run_gpus,
        device=run_device,
    params:
        spec=run_text,
        code=predict_code,
        split="test",
    message:
        "predict {wildcards.method} on {wildcards.experiment}, seed {wildcards.seed}, {wildcards.preset}"
    shell:
        "mist-bench predict --spec {params.spec:q} --code {params.code}"
        " --manifest {input.manifest:q} --weights {input.weights:q} --out {output:q}"
        " --split {params.split} --device {resources.device} > {log:q} 2>&1"


rule trace:
    input:
        manifest=run_manifest,
        arrays=ancient(test_arrays),
        weights=f"{RUN}/weights.safetensors",
    output:
        f"{RUN}/trace.npz",
    log:
        f"{RUN}/trace.log",
    priority: SOON
    conda:
        "../../environment.yml"
    threads: run_threads
    resources:
        gpu=run_gpus,
        device=run_device,
    params:
        spec=run_text,
        code=trace_code,
    message:
        "trace {wildcards.method} on {wildcards.experiment}, seed {wildcards.seed}, {wildcards.preset}"
    shell:
        "mist-bench trace --spec {params.spec:q} --code {params.code}"
        " --manifest {input.manifest:q} --weights {input.weights:q} --out {output:q}"
        " --device {resources.device} > {log:q} 2>&1"


rule evaluate:
    input:
        manifest=truth_manifest,
        arrays=ancient(truth_arrays),
        predictions=f"{RUN}/predictions.npz",
    output:
        f"{RUN}/metrics.json",
    log:
        f"{RUN}/evaluate.log",
    priority: SOON
    conda:
        "../../environment.yml"
    params:
        spec=run_text,
        code=provenance.digest("evaluate"),
        split="test",
    message:
        "evaluate {wildcards.method} on {wildcards.experiment}, seed {wildcards.seed}, {wildcards.preset}"
    shell:
        "mist-bench evaluate --spec {params.spec:q} --code {params.code}"
        " --manifest {input.manifest:q} --predictions {input.predictions:q} --out {output:q}"
        " --split {params.split} > {log:q} 2>&1"


# On the val split, for the choice of hyper-parameters: no test image is looked at.
use rule predict as predict_val with:
    input:
        manifest=run_manifest,
        arrays=ancient(training_arrays),
        weights=f"{RUN}/weights.safetensors",
    output:
        f"{RUN}/val_predictions.npz",
    log:
        f"{RUN}/val_predict.log",
    params:
        spec=run_text,
        code=predict_code,
        split="val",
    message:
        "predict {wildcards.method} on val of {wildcards.experiment}, seed {wildcards.seed}, {wildcards.preset}"


use rule evaluate as evaluate_val with:
    input:
        manifest=truth_manifest,
        arrays=ancient(truth_val_arrays),
        predictions=f"{RUN}/val_predictions.npz",
    output:
        f"{RUN}/val_metrics.json",
    log:
        f"{RUN}/val_evaluate.log",
    params:
        spec=run_text,
        code=provenance.digest("evaluate"),
        split="val",
    message:
        "evaluate {wildcards.method} on val of {wildcards.experiment}, seed {wildcards.seed}, {wildcards.preset}"
