"""What a target needs and costs: sums and schedules by hand, and the command from end to end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mist_bench.cli import main as cli
from mist_bench.cli.measure import planned_config
from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.config.keywords import ConfigError
from mist_bench.forecast import costs
from mist_bench.forecast import jobs as planning
from mist_bench.forecast import text as planning_text
from mist_bench.forecast.costs import Cost
from mist_bench.forecast.jobs import Forecast, Job

pytestmark = pytest.mark.usefixtures("here")
HARD = "mnist_hard_classification"
ONE_MORE = {"experiments": {HARD: {"training": {"steps": 31}}}}
NOWHERE = planning.Path("nowhere")
LONGER = {"preset": "smoke", "methods": {"mist": ONE_MORE}}


@pytest.fixture(scope="module")
def smoke():
    return settings.load(targets.SETTINGS, {"preset": "smoke", "seeds": [0, 3]})


def finish(results, config, run):
    """Store what tells that a run has ended."""
    folder = targets.run_folder(results, *run)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    spec = settings.run_spec(config, *run)
    (folder / "config.json").write_text(settings.canonical(spec) + "\n")


def run_of(config, **change):
    """Return the job of one run of MIST."""
    job = planning.run_job(config, HARD, "mist", [False])
    return Job(**vars(job) | change)


# what a target needs


def test_a_target_needs_each_run_once(smoke):
    table2 = planning.target_runs(smoke, "table2", NOWHERE)
    assert table2 == [
        (HARD, method, seed) for method in ("mist", "channelwise", "supervised") for seed in (0, 3)
    ]
    tables = planning.target_runs(smoke, "tables", NOWHERE)
    assert len(tables) == len(set(tables)) > len(table2)
    assert {(HARD, "lapsum", 3), (HARD, "mist", 0)} <= {
        *planning.target_runs(smoke, "table3_extended", NOWHERE)
    }
    figure3 = planning.target_runs(smoke, "figure3", NOWHERE)
    assert figure3 == [("mnist_hard_reconstruction", "mist", 0)]
    figures = planning.target_runs(smoke, "figures", NOWHERE)
    assert {("mnist_uneven_reconstruction", "mist", 0), (HARD, "mist", 3)} <= set(figures)
    report = planning.target_runs(smoke, "report", NOWHERE)
    assert {*tables, *figures} < set(report)
    assert not {run for run in report if run[1] == "lapsum"}


def test_the_report_keeps_fresh_the_rivals_that_have_metrics(smoke, tmp_path):
    finish(tmp_path, smoke, (HARD, "lapsum", 3))
    assert (HARD, "lapsum", 3) not in planning.target_runs(smoke, "report", tmp_path)
    (targets.run_folder(tmp_path, HARD, "lapsum", 3) / "metrics.json").touch()
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/table3_extended.csv").touch()  # made with --partial
    jobs = {job.names: job for job in planning.plan_jobs(smoke, "report", tmp_path)}
    assert (jobs[HARD, "lapsum"].todo, jobs[HARD, "lapsum"].done) == (0, 1)
    assert (HARD, "mean_pool") not in jobs


def test_every_target_has_jobs(smoke, tmp_path):
    names = [*targets.TABLES, *targets.EXTENDED, *targets.FIGURES, f"table_{HARD}"]
    for target in ("tables", "figures", "report", *names):
        jobs = planning.plan_jobs(smoke, target, tmp_path)
        kinds = [job.kind for job in jobs]
        assert kinds == sorted(kinds)  # dataset, features, run
        assert {"dataset", "run"} <= set(kinds)
        assert len({job.names for job in jobs}) == len(jobs)


def test_a_run_predicts_val_in_every_validation_and_test_once(smoke):
    job = planning.run_job(smoke, HARD, "mist", [True, False])
    assert (job.todo, job.done, job.units, job.threads) == (1, 1, 30, 1)
    assert job.predicted == 2 * 32 + 32  # 30 steps, validated every 15
    longer = settings.load(targets.SETTINGS, LONGER)
    assert planning.run_job(longer, HARD, "mist", [False]).predicted == 3 * 32 + 32


def test_images_are_bytes_and_features_float16(smoke, tmp_path):
    images, features = planning.data_jobs(smoke, "pascal_coco", tmp_path)
    assert (images.kind, images.units, images.size) == ("dataset", 48, 48 * 3 * 224 * 224)
    # two versions of 24 training images; 112 channels at stride 16
    assert (features.kind, features.units) == ("features", 72)
    assert features.size == 72 * 112 * 14 * 14 * 2


def test_what_is_there_is_not_made_again(smoke, tmp_path):
    finish(tmp_path, smoke, (HARD, "mist", 0))
    for seed in (0, 3):
        finish(tmp_path, smoke, (HARD, "supervised", seed))
    (tmp_path / "datasets/mnist_hard").mkdir(parents=True)
    (tmp_path / "datasets/mnist_hard/manifest.json").touch()
    jobs = planning.plan_jobs(smoke, "table2", tmp_path)
    assert [(*job.names, job.todo, job.done) for job in jobs] == [
        ("mnist_hard", "images", 0, 1),
        (HARD, "mist", 1, 1),
        (HARD, "channelwise", 2, 0),
        (HARD, "supervised", 0, 2),
    ]


def test_a_run_with_other_settings_is_not_the_one(smoke, tmp_path):
    finish(tmp_path, smoke, (HARD, "mist", 0))
    longer = settings.load(targets.SETTINGS, LONGER)
    jobs = {job.names: job for job in planning.plan_jobs(longer, "table2", tmp_path)}
    assert (jobs[HARD, "mist"].todo, jobs[HARD, "mist"].done) == (1, 0)
    folder = targets.run_folder(tmp_path, HARD, "mist", 0)
    spec = settings.run_spec(smoke, HARD, "mist", 0)
    assert planning.is_done(folder, spec)
    (folder / "run.json").unlink()  # written last: the run was cut off
    assert not planning.is_done(folder, spec)


def test_a_target_without_a_run_is_refused(smoke, tmp_path):
    with pytest.raises(ConfigError, match="tuning: preset smoke has no run for it"):
        planning.plan_jobs(smoke, "tuning", tmp_path)


# what it costs


def test_a_job_takes_its_start_its_units_and_its_predictions(smoke):
    job = run_of(smoke, units=10, predicted=30, tested=6)
    one = Forecast(job, Cost(2.0, start=3.0, predict=0.1, weights=500, prediction=20.0))
    assert one.seconds == pytest.approx(3 + 10 * 2 + 30 * 0.1)
    assert one.size == 500 + 6 * 20
    assert Forecast(job, Cost(None, note="photographs")).seconds is None
    assert Forecast(job, None).seconds is None


def test_the_longest_job_that_is_left_comes_first():
    # 5 | 4, then 3 where it is free first: 5 3 | 4 3 3
    assert planning.makespan([(3, 1), (5, 1), (3, 1), (4, 1), (3, 1)], 2) == 10
    # 4 on both cores, then 3 beside 3
    assert planning.makespan([(3, 1), (4, 2), (3, 1)], 2) == 7
    # 5 | 2, so that both cores are free after 5
    assert planning.makespan([(1, 2), (5, 1), (2, 1)], 2) == 6
    assert planning.makespan([], 3) == 0


@given(st.lists(st.floats(0, 100), min_size=1), st.integers(1, 9))
def test_a_schedule_is_no_longer_than_known(seconds, cores):
    found = planning.makespan([(one, 1) for one in seconds], cores)
    mean, longest = sum(seconds) / cores, max(seconds)
    assert max(mean, longest) <= found + 1e-9
    assert found <= mean + longest * (1 - 1 / cores) + 1e-9  # Graham's bound


def test_stages_follow_each_other_and_seconds_are_of_all_threads(smoke):
    images, features = planning.data_jobs(smoke, "pascal_coco", planning.Path("nowhere"))
    run = run_of(smoke, units=1, predicted=0, todo=3)
    found = [
        Forecast(images, Cost(1.0)),  # 48 images
        Forecast(features, Cost(None, note="photographs")),
        Forecast(run, Cost(10.0)),
    ]
    assert planning.core_seconds(found) == 48 + 30
    assert planning.wall_seconds(found, 2) == 48 + 20
    assert planning.wall_seconds(found, 3) == 48 + 10
    training = run.spec.training.model_copy(update={"threads": 2})
    wide = run_of(smoke, units=1, predicted=0, todo=3)
    wide = Job(**vars(wide) | {"spec": run.spec.model_copy(update={"training": training})})
    assert planning.wall_seconds([Forecast(wide, Cost(10.0))], 2) == 3 * 10 / 2
    assert planning.wall_seconds([Forecast(wide, Cost(10.0))], 1) == 3 * 10
    assert planning.wall_seconds([Forecast(run, Cost(10.0, gpu=True))], 8) == 30


def test_equal_steps_are_timed_once_and_finished_runs_never(smoke, tmp_path, monkeypatch):
    timed = []
    monkeypatch.setattr(costs, "measurer", lambda *_: lambda spec: timed.append(spec) or Cost(1.0))
    for seed in (0, 3):
        finish(tmp_path, smoke, ("mnist_hard_reconstruction", "air", seed))
        finish(tmp_path, smoke, ("mnist_easy_reconstruction", "air", seed))
    found = planning.forecast(smoke, planning.plan_jobs(smoke, "table1", tmp_path), limit=1)
    costs_of = {one.job.names: one.cost for one in found}
    assert costs_of["mnist_hard_reconstruction", "air"] is None
    one, other = ((f"mnist_{name}_reconstruction", "mist") for name in ("easy", "hard"))
    assert costs_of[one] is costs_of[other] is not costs_of["gabor_reconstruction", "mist"]
    methods = [spec.method for spec in timed if isinstance(spec, settings.RunSpec)]
    assert sorted(methods) == ["channelwise", "grid", "landmarks", "mist", "mist"]


# words


def test_times_and_sizes_have_three_digits():
    texts = [planning_text.in_units(one, planning_text.TIMES) for one in (0, 0.0123, 90, 7200, 1e8)]
    assert texts == ["0 ms", "12.3 ms", "1.5 min", "2 h", "1,157 d"]
    assert planning_text.in_units(3 * 2**29, planning_text.SIZES) == "1.5 GiB"


def test_the_table_says_what_is_missing(smoke, monkeypatch):
    monkeypatch.setenv("COLUMNS", "130")
    images, features = planning.data_jobs(smoke, "pascal_coco", planning.Path("nowhere"))
    run = run_of(smoke, units=1000, predicted=0, todo=1, done=2)
    found = [
        Forecast(images, Cost(None, note="photographs")),
        Forecast(Job(**vars(features) | {"todo": 0, "done": 1}), None),
        Forecast(run, Cost(3.6, timed=7, flops=5 * 10**9, weights=2**20)),
    ]
    lines = planning_text.text(found, 1).splitlines()
    cells = {tuple(line.split()[:2]): line.split()[2:] for line in lines if "  " in line}
    assert cells["pascal_coco", "images"] == ["1", "0", "48", "not", "timed", "6.89", "MiB"]
    assert cells["pascal_coco", "features"] == ["0", "1", "72", "3.01", "MiB"]
    step, whole = ["5", "3.6", "s", "7"], ["1", "h", "1", "MiB"]
    assert cells[HARD, "mist"] == ["1", "2", "1,000", *step, *whole]
    assert lines[-3] == "runs: 1 to do, 2 done. Units are steps of a run, or images."
    assert lines[-2].startswith("core-time 1 h; on 1 core 1 h; disk 7.89 MiB.")
    assert lines[-1] == "not timed: pascal_coco, images: photographs"


# the command


def plan(capsys, *arguments):
    """Return the exit code, stdout, and the lines of stderr."""
    code = cli.main(["plan", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err.splitlines()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tabel2"], "target: 'tabel2' is unknown; did you mean 'table2'?"),
        (["--preset", "papre"], "preset: 'papre' is unknown; did you mean 'paper'?"),
        (["--config", "trainin={steps: 3}"], "trainin: unknown key; did you mean 'training'?"),
        (["--config", "seeds=[1]", "steps"], "--config: KEY=VALUE is expected, got 'steps'"),
        (["--config", "nowhere.json"], "nowhere.json"),
        (["--config", "seeds=[1"], "--config: while parsing"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, words):
    code, out, lines = plan(capsys, *arguments)
    assert (code, out, len(lines)) == (1, "", 1)
    assert words in lines[0]


def test_settings_are_given_as_to_snakemake_or_in_a_file(tmp_path):
    config = planned_config(None, ["preset=smoke", "seeds=[1,2]", "training={steps: 9}"])
    assert (config.preset, config.seeds, config.training.steps) == ("smoke", [1, 2], 9)
    assert planned_config("paper", ["seeds=[4]"]).preset == "paper"
    file = tmp_path / "config.json"
    file.write_text(settings.canonical(config))
    assert planned_config(None, [str(file)]) == config
    file.write_text("{")
    with pytest.raises(settings.ConfigError, match=r"config\.json: "):
        planned_config(None, [str(file)])


@pytest.mark.usefixtures("digit_folder", "torch_settings")
def test_a_plan_from_end_to_end(capsys, tmp_path, smoke):
    finish(tmp_path / "results/smoke", smoke, (HARD, "mist", 0))
    arguments = ["table2", "--preset", "smoke", "--seconds", "0", "--cores", "2"]
    code, out, _ = plan(capsys, *arguments)
    assert code == 0
    assert "runs: 2 to do, 1 done." in out
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in out.splitlines() if "  " in line}
    assert list(rows)[-4:] == [
        ("mnist_hard", "images"),
        *((HARD, method) for method in ("mist", "channelwise", "supervised")),
    ]
    assert rows[HARD, "mist"][:3] == ["0", "1", "30"]
    for method in ("channelwise", "supervised"):  # to do, done, steps, GFLOP, a step, its unit
        found = rows[HARD, method]
        assert found[:3] == ["1", "0", "30"]
        assert float(found[3]) > 0.001
        assert float(found[4]) > 0
    assert not (tmp_path / "results/smoke/datasets").exists()
