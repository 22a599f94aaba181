# The paper, from data to tables:  snakemake --cores 8 tables
# Each stage is a rule in workflow/rules; this file names what can be asked for.
from snakemake.utils import min_version

min_version("9.19")


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"


rule all:
    input:
        everything,


include: "workflow/rules/datasets.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/report.smk"


rule data:
    input:
        manifests,


rule tables:
    input:
        all_tables,


rule figures:
    input:
        figures_of(PRESET),


rule report:
    input:
        report_of(PRESET),


rule calibration:
    input:
        "results/calibration/tables/calibration.csv",


rule tuning:
    input:
        "results/tuning/tables/tuning.csv",


rule smoke:
    input:
        everything_small,


for name in [*targets.TABLES, *targets.EXTENDED]:

    rule:
        name:
            name
        input:
            table_of(PRESET, name),


for name in targets.FIGURES:

    rule:
        name:
            name
        input:
            f"results/{PRESET}/figures/{name}.png",


onstart:
    claim()


onsuccess:
    print(summary(), end="")


onerror:
    print(advice())
