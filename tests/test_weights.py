"""``weights.py`` as a user runs it."""

import errno
from types import SimpleNamespace

import pytest


@pytest.fixture
def weights(scripts, tmp_path):
    """Run the script with a cache of its own, one line of output a model or message."""

    def run(*words) -> SimpleNamespace:
        outcome = scripts.run("weights.py", *words, f"paths.cache={tmp_path}")
        assert "Traceback" not in outcome.text
        return outcome

    return run


def test_the_list_says_what_is_there_and_where_the_rest_is_expected(weights, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/metface_p2.pt").touch()
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in weights("list").text.splitlines()}
    assert rows["ddpmpp_avatars"][0] == "embedded"
    assert rows["custom"] == ["yours", "model.weights=/path"]
    assert rows["adm_p2_metfaces"] == ["there", f"{tmp_path}/weights/metface_p2.pt"]
    assert rows["ddpmpp_celeba"] == ["missing", f"{tmp_path}/weights/celeba_hq.ckpt"]
    assert rows["hub_cat"] == ["missing", f"{tmp_path}/weights/google--ddpm-cat-256"]


def test_fetching_without_a_network_ends_with_where_to_put_the_file(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    outcome = weights("fetch", "model=ddpmpp_church")
    assert outcome.code == 1
    assert outcome.text.count("[ERROR]") == 1
    assert f"{tmp_path}/weights/church_outdoor.ckpt" in outcome.text
    assert "https://github.com/ermongroup/SDEdit" in outcome.text


def test_what_is_there_is_not_fetched_again(weights, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/church_outdoor.ckpt").write_text("here")
    outcome = weights("fetch", "model=ddpmpp_church")
    assert outcome.code == 0
    assert f"ddpmpp_church: {tmp_path}/weights/church_outdoor.ckpt" in outcome.text


@pytest.mark.parametrize(
    ("model", "message"),
    [("ddpmpp_avatars", "has nothing to fetch: embedded"), ("ddpm", "Could not find 'model/ddpm'")],
)
def test_a_model_without_a_source_or_a_name_is_refused(weights, model, message):
    outcome = weights("fetch", f"model={model}")
    assert outcome.code == 1
    assert message in outcome.text


def test_a_full_disk_names_the_file_and_where_else_it_may_go(weights, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("asyrp_lit.models.weights.fetch_place", refuse)
    outcome = weights("fetch", "model=ddpmpp_bedroom")
    assert outcome.code == 1
    assert f"{tmp_path}/weights/bedroom.ckpt cannot be written: No space left on device" in outcome.text
    assert "paths.cache" in outcome.text
