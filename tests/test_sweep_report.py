"""``sweep_report.py`` on folders as sweeps leave them."""

import json
import os
from unittest import mock

import pytest
import wandb
from omegaconf import OmegaConf
from PIL import Image

from asyrp_lit.stages.read_runs import read_runs

BOTH = ["success", "preservation"]


@pytest.fixture
def write_run(tmp_path):
    """Write the folder of a run: ``write_run(NAME, OVERRIDES, metrics=, error=, job=)``."""

    def write(name, overrides=("attr=glasses",), metrics=None, error=None, job="train"):
        run = tmp_path / "sweep" / name
        (run / ".hydra").mkdir(parents=True)
        OmegaConf.save({"hydra": {"job": {"name": job}}}, run / ".hydra/hydra.yaml")
        OmegaConf.save(OmegaConf.create(list(overrides)), run / ".hydra/overrides.yaml")
        OmegaConf.save({}, run / ".hydra/config.yaml")
        if metrics is not None:
            Image.new("RGB", (40, 20), "blue").save(run / "grid.png")
            (run / "metrics.json").write_text(metrics if isinstance(metrics, str) else json.dumps(metrics))
        if error is not None:
            (run / "error.log").write_text(error)
        return run

    return write


@pytest.fixture
def sweep(write_run, tmp_path):
    """Two runs that are on the front, one that is not, one that failed, one that has not finished."""
    for number, (success, preservation) in enumerate([(0.8, 0.9), (0.7, 0.8), (0.9, 0.7)]):
        measured = {"success": success, "preservation": preservation, "edit_lpips": 0.1 * number}
        write_run(str(number), [f"method.optimizer.lr={number}e-4", "+x=[a=b]"], measured)
    write_run("3", error="Traceback (most recent call last):\nValueError: too <high>\n")
    write_run("10")
    return tmp_path / "sweep"


def test_runs_are_read_with_their_states_in_the_order_of_their_numbers(sweep):
    rows = read_runs(sweep, BOTH)
    assert [(row.name, row.state, row.on_front) for row in rows] == [
        ("0", "finished", True),
        ("1", "finished", False),
        ("2", "finished", True),
        ("3", "failed", False),
        ("10", "unfinished", False),
    ]
    assert rows[1].settings == {"method.optimizer.lr": "1e-4", "x": "[a=b]"}
    assert rows[3].error.endswith("too <high>")
    assert rows[0].minutes == pytest.approx(0, abs=1)


def test_a_run_that_was_started_twice_counts_from_its_first_start(write_run, tmp_path):
    run = write_run("0", ["resume=auto"], {"success": 1.0})
    (run / "settings.yaml").touch()
    os.utime(run / "settings.yaml", (0, (run / "metrics.json").stat().st_mtime - 120))
    row = read_runs(tmp_path / "sweep", BOTH)[0]
    assert row.minutes == pytest.approx(2, abs=0.1)


def test_a_minus_before_a_metric_wants_it_low(sweep):
    assert [row.name for row in read_runs(sweep, ["-edit_lpips"]) if row.on_front] == ["0"]
    assert not any(row.on_front for row in read_runs(sweep, ["success", "no_such_metric"]))


def test_resumes_and_other_scripts_are_left_out_and_damage_is_shown(sweep, write_run):
    write_run("resumed", ["resume=outputs/train/x"])
    write_run("evaluated", metrics={"1": {"success": 1.0}}, job="evaluate")
    (write_run("cut") / ".hydra/overrides.yaml").write_text("[half")
    write_run("damaged", metrics='{"success": ')
    rows = {row.name: row for row in read_runs(sweep, BOTH)}
    assert set(rows) == {"0", "1", "2", "3", "10", "damaged"}
    assert rows["damaged"].state == "failed"
    assert "metrics.json is damaged" in rows["damaged"].error


def test_the_script_writes_the_page_and_says_who_is_on_the_front(scripts, sweep):
    outcome = scripts.run("sweep_report.py", sweep)
    assert outcome.code == 0, outcome.text
    assert "5 runs, on the front of success (high) and preservation (high): 0, 2" in outcome.text
    page = (sweep / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "too &lt;high&gt;" in page


def test_a_folder_of_ordinary_runs_gets_a_page_too_wherever_it_is_wanted(scripts, sweep, tmp_path):
    page = tmp_path / "pages/all.html"
    outcome = scripts.run("sweep_report.py", tmp_path, f"out={page}", "embed_mib=0")
    assert outcome.code == 0, outcome.text
    assert 'src="../sweep/0/grid.png"' in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{empty}"], "has no runs of train.py (no .hydra/overrides.yaml in or below it)"),
        (["{empty}/none"], "there is no folder"),
        (["{sweep}", "objective=success"], "objective must be a list of metrics"),
        (["{sweep}", "embed_mib=-1"], "embed_mib must be a number of MiB"),
        (["{sweep}", "outs=x"], "Could not override 'outs'"),
    ],
)
def test_wrong_input_ends_with_one_message(scripts, sweep, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    given = [argument.format(empty=tmp_path / "empty", sweep=sweep) for argument in arguments]
    outcome = scripts.run("sweep_report.py", *given)
    assert outcome.code == 1
    assert message in outcome.text
    assert outcome.text.count("[ERROR]") == 1
    assert "Traceback" not in outcome.text
    assert not list(tmp_path.rglob("report.html"))


def test_wandb_gets_table_and_grids_in_the_group_of_the_sweep(scripts, sweep, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    started = mock.Mock(side_effect=wandb.init)
    monkeypatch.setattr(wandb, "init", started)
    outcome = scripts.run("sweep_report.py", sweep, "logger=wandb", "logger.wandb.offline=true")
    assert outcome.code == 0, outcome.text
    assert wandb.run is None
    (table,) = sweep.glob("wandb/offline-run-*/files/media/table/runs_*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"][:4] == ["run", "state", "front", "method.optimizer.lr"]
    assert [row[:3] for row in content["data"]][2:4] == [["2", "finished", True], ["3", "failed", False]]
    assert len(list(sweep.glob("wandb/offline-run-*/files/media/images/grid/*.png"))) == 3
    assert started.call_args.kwargs["group"] == "sweep"
    assert list(sweep.glob("wandb/offline-run-*/*.wandb"))
