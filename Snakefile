# The paper, from data to tables:  snakemake --cores 8 tables
# Each stage is a rule in workflow/rules; this file names what can be asked for.
from snakemake.utils import min_version

min_version("9.19")


include: "workflow/rules/common.smk"


rule all:
    input:
        expand(
            "results/{preset}/tables/{table}.csv", preset=PRESET, table=targets.TABLES
        ),
        expand(
            "results/{preset}/figures/{figure}.png",
            preset=PRESET,
            figure=targets.FIGURES,
        ),
        f"results/{PRESET}/report/index.html",


include: "workflow/rules/datasets.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/report.smk"


rule data:
    input:
        manifests,


rule tables:
    input:
        expand(
            "results/{preset}/tables/{table}.csv", preset=PRESET, table=targets.TABLES
        ),


rule figures:
    input:
        expand(
            "results/{preset}/figures/{figure}.png",
            preset=PRESET,
            figure=targets.FIGURES,
        ),


rule report:
    input:
        f"results/{PRESET}/report/index.html",


rule smoke:
    input:
        expand("results/smoke/tables/{table}.csv", table=targets.TABLES),
        expand("results/smoke/figures/{figure}.png", figure=targets.FIGURES),
        "results/smoke/report/index.html",


for name in targets.TABLES:

    rule:
        name:
            name
        input:
            f"results/{PRESET}/tables/{name}.csv",


for name in targets.FIGURES:

    rule:
        name:
            name
        input:
            f"results/{PRESET}/figures/{name}.png",


onsuccess:
    print(summary(), end="")


onerror:
    print(advice())
