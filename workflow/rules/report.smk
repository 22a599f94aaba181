# Tables, figures and the report: recomputed from stored metrics and predictions in seconds. On a
# cluster they are made where Snakemake runs: a place in its queue would take longer.
localrules:
    resolve,
    metrics,
    table,
    figure,
    html,
    calibration_table,
    tuning_table,


rule resolve:
    output:
        "results/{preset}/config.json",
    log:
        "results/{preset}/logs/resolve.log",
    priority: SOON
    conda:
        "../../environment.yml"
    params:
        config=config_text,
    message:
        "settings of {wildcards.preset}"
    shell:
        "mist-bench resolve --config {params.config:q} --out {output:q} > {log:q} 2>&1"


rule metrics:
    input:
        all_metrics,
        config="results/{preset}/config.json",
    output:
        "results/{preset}/metrics.csv",
    log:
        "results/{preset}/logs/metrics.log",
    priority: SOON
    conda:
        "../../environment.yml"
    params:
        code=provenance.digest("metrics"),
    message:
        "metrics of all runs, {wildcards.preset}"
    shell:
        "mist-bench metrics --config {input.config:q} --code {params.code} > {log:q} 2>&1"


rule table:
    input:
        table_metrics,
        config="results/{preset}/config.json",
        paper=PAPER,
        verdicts=RESOURCES / "verdict_rule.yaml",
    output:
        csv=report("results/{preset}/tables/{table}.csv", category="Tables"),
        md="results/{preset}/tables/{table}.md",
        tex="results/{preset}/tables/{table}.tex",
    log:
        "results/{preset}/logs/{table}.log",
    priority: SOON
    conda:
        "../../environment.yml"
    params:
        code=provenance.digest("table"),
    message:
        "{wildcards.table}, {wildcards.preset}"
    shell:
        "mist-bench table {wildcards.table} --config {input.config:q} --code {params.code}"
        " > {log:q} 2>&1"


rule figure:
    input:
        figure_files,
        arrays=ancient(figure_arrays),
        config="results/{preset}/config.json",
    output:
        png=report("results/{preset}/figures/{figure}.png", category="Figures"),
        pdf="results/{preset}/figures/{figure}.pdf",
    log:
        "results/{preset}/logs/{figure}.log",
    priority: SOON
    conda:
        "../../environment.yml"
    params:
        code=provenance.digest("figure"),
    message:
        "{wildcards.figure}, {wildcards.preset}"
    shell:
        "mist-bench figure {wildcards.figure} --config {input.config:q} --code {params.code}"
        " > {log:q} 2>&1"


rule html:
    input:
        expand("results/{{preset}}/tables/{table}.csv", table=targets.TABLES),
        expand("results/{{preset}}/figures/{figure}.png", figure=targets.FIGURES),
        extended_tables,
        metrics="results/{preset}/metrics.csv",
        deviations=RESOURCES / "deviations.csv",
        config="results/{preset}/config.json",
    output:
        "results/{preset}/report/index.html",
    log:
        "results/{preset}/logs/report.log",
    priority: SOON
    conda:
        "../../environment.yml"
    params:
        code=provenance.digest("report"),
    message:
        "report, {wildcards.preset}"
    shell:
        "mist-bench report --config {input.config:q} --code {params.code} > {log:q} 2>&1"


rule calibration_table:
    input:
        calibration_metrics,
        config="results/{preset}/config.json",
        paper=PAPER,
    output:
        "results/{preset}/tables/calibration.csv",
    log:
        "results/{preset}/logs/calibration.log",
    priority: SOON
    conda:
        "../../environment.yml"
    params:
        code=provenance.digest("calibration"),
    message:
        "supervised bound of each candidate generator"
    shell:
        "mist-bench calibration --config {input.config:q} --code {params.code} > {log:q} 2>&1"


rule tuning_table:
    input:
        tuning_scores,
        config="results/{preset}/config.json",
    output:
        "results/{preset}/tables/tuning.csv",
    log:
        "results/{preset}/logs/tuning.log",
    priority: SOON
    conda:
        "../../environment.yml"
    params:
        code=provenance.digest("tuning"),
    message:
        "score of each candidate parameter on the val split"
    shell:
        "mist-bench tuning --config {input.config:q} --code {params.code} > {log:q} 2>&1"
