"""Files of numbers, and commands that messages name."""

import json
import math
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from asyrp_lit.stages import resume
from asyrp_lit.stages.guard import load_metrics, write_json
from asyrp_lit.stages.settings import spell_override


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_numbers_that_json_lacks_are_null_and_come_back_as_nan(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"success": 0.5, "of_each": math.nan, "deep": [{"psnr": math.inf}, 1, True, "NaN"]})
    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content == {"success": 0.5, "of_each": None, "deep": [{"psnr": None}, 1, True, "NaN"]}
    write_json(path, {"success": 0.5, "of_each": math.nan})
    found = load_metrics(path)
    assert found["success"] == 0.5
    assert math.isnan(found["of_each"])


@pytest.mark.parametrize("content", ["", "[1]", '{"success": [1]}', '{"success": "high"}'])
def test_a_damaged_file_of_metrics_is_named(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.json is damaged: "):
        load_metrics(tmp_path / "metrics.json")


def test_a_finished_run_whose_metric_is_nan_is_finished(tmp_path, monkeypatch):
    metrics = {"success": math.nan, "edit_lpips": 0.25}
    write_json(tmp_path / "metrics.json", metrics)
    cfg = OmegaConf.create({"attr": {"name": "glasses"}})
    monkeypatch.setattr(resume, "read_settings", lambda run: (cfg,))
    monkeypatch.setattr(resume, "read_direction", lambda path: (None, SimpleNamespace(metrics=metrics)))
    found = resume.read_finished(cfg, tmp_path)
    assert found is not None
    assert found["edit_lpips"] == 0.25
    metrics["edit_lpips"] = 0.5
    assert resume.read_finished(cfg, tmp_path) is None


ODD = ("a$b", "a~b", "~/a", "1", "1_0", "1e5", "true", "null", 'a\\"b', "a\\", "a\\b")


@pytest.mark.parametrize("path", ["outputs/train/x", "/tmp/mo ved=1/st", "ü/[a],b", 'it"s', "it's", *ODD])
def test_an_override_is_spelled_so_that_a_shell_and_hydra_read_it(path):
    (word,) = shlex.split(spell_override("resume", path))
    assert OverridesParser.create().parse_override(word).value() == path
    assert spell_override("resume", "outputs/train/x") == "resume=outputs/train/x"


@pytest.mark.parametrize(
    ("storage", "way"),
    [
        (None, "with hydra.sweep.dir=outputs/s goes on"),
        ("sqlite:///s.db", "without hydra.sweep.dir goes on in the study"),
    ],
)
def test_a_stopped_search_says_how_it_goes_on(tmp_path, monkeypatch, storage, way):
    monkeypatch.setattr(resume, "find_sweep", lambda: Path("outputs/s"))
    monkeypatch.setattr(resume.HydraConfig, "get", lambda: OmegaConf.create({"sweeper": {"storage": storage}}))
    with pytest.raises(KeyboardInterrupt, match=f"^the same command {way}$"), resume.say_how_to_go_on(tmp_path):
        raise KeyboardInterrupt
