# The paper, from data to tables:  snakemake --cores 8 tables
# Each stage is a rule in workflow/rules; this file names what can be asked for.
from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"


rule all:
    """Tables 1-5, all figures and the report of the preset."""
    input:
        everything,


include: "workflow/rules/datasets.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/report.smk"


rule data:
    """Every dataset of the preset, and the features of those that methods see as features."""
    input:
        manifests,


rule tables:
    """Tables 1-5 of the preset with the runs they need."""
    input:
        tables_of(PRESET, *targets.TABLES),


rule figures:
    """Figures 1-8 of the preset with the runs they need."""
    input:
        figures_of(PRESET),


rule report:
    """One HTML page of everything, made of the preset's tables and figures."""
    input:
        report_of(PRESET),


rule smoke:
    """The whole pipeline on hundreds of images, in minutes: it shows that everything works."""
    input:
        everything_small,


for name in [*targets.TABLES, *targets.EXTENDED]:

    rule:
        """One table of the paper, or of more than it has, with the runs it needs."""
        name:
            name
        input:
            tables_of(PRESET, name),


for name in generic_tables(PRESET):

    rule:
        """One experiment's methods and rivals in a table, with the runs it needs."""
        name:
            name
        input:
            tables_of(PRESET, name),


for name in targets.SEARCHES:

    rule:
        """How parameters were found: the score of each candidate in the preset of this name."""
        name:
            name
        input:
            tables_of(name, name),


for name in targets.FIGURES:

    rule:
        """One figure with the runs it needs."""
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
