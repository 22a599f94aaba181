"""One self-contained HTML page: tables, figures, deviations and where every run comes from."""

from base64 import b64encode
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from mist_bench.config.schema import Config
from mist_bench.config.targets import TABLES, more_tables, run_folder, table_experiment
from mist_bench.reporting.aggregate import read_json
from mist_bench.reporting.files import read_deviations, write_text
from mist_bench.reporting.tables.formats import groups
from mist_bench.reporting.tables.verdicts import NO_CLAIM, VERDICTS
from mist_bench.reporting.tables.write import gather, make_table

# keys of run.json, in the order they are shown
RUN_KEYS = ("steps", "seconds", "threads", "cpu", "gpu", "peak_memory_mib", "commit")


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>MIST benchmark: preset {{ preset }}</title>
<style>
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1.5rem 4rem; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .6rem; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .8rem; }
th, td { text-align: left; vertical-align: top; }
.cells td { text-align: right; white-space: nowrap; }
.cells th[colspan] { text-align: center; }
.ours { font-weight: 600; }
.small, .notes { font-size: .85rem; }
.verdict { display: inline-block; padding: 0 .5rem; font-size: .8rem; }
.verdict { border: 1px solid var(--line); border-radius: .6rem; }
.reproduced { background: #0072b2; border-color: #0072b2; color: #fff; }
.direction-only { background: #56b4e9; border-color: #56b4e9; color: #000; }
.not-reproduced { background: #e69f00; border-color: #e69f00; color: #000; }
.not-judged, .not-run, .not-specified, .no-claim { background: var(--soft); }
img { max-width: 100%; background: #fff; border: 1px solid var(--line); }
</style>
</head>
<body>
<h1>MIST: Multiple Instance Spatial Transformer &mdash; benchmark report</h1>
<p>Preset <strong>{{ preset }}</strong>, seeds {{ seeds }}. Every cell: ours (with its interval over
seeds where there are several), the paper's value, the verdict.</p>
<p>{% for word, count in counts %}
<span class="verdict {{ word | slug }}">{{ word }}: {{ count }}</span>
{% endfor %}</p>
{% for title, grid, groups in tables %}
<h2 id="{{ grid.name }}">{{ title }}</h2>
<div class="scroll"><table class="cells">
<caption>{{ grid.caption }}</caption>
<thead>
{% if grid.columns[0].group %}
<tr><th></th>{% for name, columns in groups %}
<th colspan="{{ columns }}">{{ name }}</th>{% endfor %}</tr>
{% endif %}
<tr><th></th>{% for column in grid.columns %}
<th scope="col">{{ column.label }}</th>{% endfor %}</tr>
</thead>
<tbody>
{% for label, cells in grid.rows %}
<tr><th scope="row">{{ label }}</th>
{% for cell in cells %}
<td>{% if cell %}{% if cell.ours.mean is not none %}
<span class="ours">{{ cell.number(cell.ours.mean) }}</span>
<span class="small">{{ cell.interval }}</span><br>{% endif %}
{% if cell.paper is not none %}
<span class="small">paper {{ cell.number(cell.paper) }}</span><br>{% endif %}
{% if cell.ours.mean is none and not grid.compared and cell.short_verdict == "not specified" %}
&ndash;{% elif grid.compared or cell.ours.mean is none %}
<span class="verdict {{ cell.short_verdict | slug }}">{{ cell.short_verdict }}</span>{% endif %}
{% endif %}</td>
{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
<ul class="notes">{% for note in grid.notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% endfor %}
<h2 id="figures">Figures</h2>
{% for name, image in figures %}
<figure><img alt="{{ name }}" src="data:image/png;base64,{{ image }}"></figure>
{% else %}<p>No figure has been made yet.</p>
{% endfor %}
<h2 id="deviations">Deviations from the paper</h2>
<div class="scroll"><table>
<thead><tr><th>id</th><th>the paper</th><th>its official code</th><th>our choice</th>
<th>config key</th><th>measured effect</th></tr></thead>
<tbody>
{% for row in deviations %}
<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<h2 id="runs">Runs</h2>
<div class="scroll"><table>
<thead><tr>{% for name in run_columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in runs %}
<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
</body>
</html>
"""


def write_report(config: Config, results: Path, out: Path) -> None:
    """Write index.html to ``out``; figures and tables beside the paper's are those made so far."""
    evidence = gather(config, results)
    grids = [make_table(name, evidence) for name in [*TABLES, *more_tables(config, results)]]
    count = Counter(one.short_verdict for grid in grids if grid.compared for one in grid.cells)
    pictures = sorted((results / "figures").glob("figure*.png"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["slug"] = lambda text: text.replace(" ", "-")
    page = environment.from_string(PAGE).render(
        preset=config.preset,
        seeds=", ".join(str(seed) for seed in config.seeds),
        counts=[(word, count[word]) for word in (*VERDICTS, NO_CLAIM) if count[word]],
        tables=[(title(grid.name, config), grid, groups(grid.columns)) for grid in grids],
        figures=[(path.stem, b64encode(path.read_bytes()).decode("ascii")) for path in pictures],
        deviations=read_deviations().itertuples(index=False),
        run_columns=["experiment", "method", "seed", "status", *RUN_KEYS],
        runs=run_rows(evidence.runs, results),
    )
    write_text(out / "index.html", page)


def title(table: str, config: Config) -> str:
    """Return the heading of a table."""
    if experiment := table_experiment(config, table):
        return f"Experiment {experiment}"
    return f"Table {table.removeprefix('table').replace('_', ', ')}"


def run_rows(runs: pd.DataFrame, results: Path) -> list[list[Any]]:
    """Return one row per run: its names, status with reason, and what run.json records."""
    rows = []
    for run in runs.drop_duplicates(["experiment", "method", "seed"]).itertuples(index=False):
        record = read_json(run_folder(results, run.experiment, run.method, run.seed) / "run.json")
        status = f"{run.status}: {run.reason}" if run.reason else run.status
        known = [_plain((record or {}).get(key)) for key in RUN_KEYS]
        rows.append([run.experiment, run.method, run.seed, status, *known])
    return rows


def _plain(value: Any) -> str:
    """Return a value of run.json as a person would write it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
