# Tables, figures and the report: recomputed from stored metrics and predictions in seconds. On a
# cluster they are made where Snakemake runs: a place in its queue would take longer.
localrules:
    resolve,
    metrics,
    table,
    figure,
    html,


rule resolve:
    """Store the settings of a preset, with the user's changes."""
    output:
        "results/{preset}/config.json",
    log:
        "results/{preset}/logs/resolve.log",
    priority: SOON
    params:
        config=config_text,
    message:
        "settings of {wildcards.preset}"
    shell:
        "mist-bench resolve --config {params.config:q} --out {output:q} > {log:q} 2>&1"


rule metrics:
    """Collect the metrics of all runs in one CSV."""
    input:
        all_metrics,
        config="results/{preset}/config.json",
    output:
        "results/{preset}/metrics.csv",
    log:
        "results/{preset}/logs/metrics.log",
    priority: SOON
    params:
        code=provenance.digest("metrics"),
    message:
        "metrics of all runs, {wildcards.preset}"
    shell:
        "mist-bench metrics --config {input.config:q} --code {params.code} > {log:q} 2>&1"


rule table:
    """Make any table: of the paper, of an experiment, or of a search for parameters."""
    input:
        table_scores,
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
    params:
        code=provenance.digest("table"),
    message:
        "{wildcards.table}, {wildcards.preset}"
    shell:
        "mist-bench table {wildcards.table} --config {input.config:q} --code {params.code}"
        " > {log:q} 2>&1"


rule figure:
    """Draw any figure of the paper."""
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
    params:
        code=provenance.digest("figure"),
    message:
        "{wildcards.figure}, {wildcards.preset}"
    shell:
        "mist-bench figure {wildcards.figure} --config {input.config:q} --code {params.code}"
        " > {log:q} 2>&1"


rule html:
    """Make the report: one HTML page that needs no other file."""
    input:
        expand("results/{{preset}}/tables/{table}.csv", table=targets.TABLES),
        expand("results/{{preset}}/figures/{figure}.png", figure=targets.FIGURES),
        further_tables,
        metrics="results/{preset}/metrics.csv",
        deviations=RESOURCES / "deviations.csv",
        config="results/{preset}/config.json",
    output:
        "results/{preset}/report/index.html",
    log:
        "results/{preset}/logs/report.log",
    priority: SOON
    params:
        code=provenance.digest("report"),
    message:
        "report, {wildcards.preset}"
    shell:
        "mist-bench report --config {input.config:q} --code {params.code} > {log:q} 2>&1"
