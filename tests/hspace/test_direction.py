import errno
import json
import pickle
from dataclasses import asdict, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from asyrp_lit import files
from asyrp_lit.hspace.direction import (
    TRAINED_KINDS,
    DirectionInfo,
    direction_arguments,
    load_direction,
    make_direction,
    read_direction_info,
    save_direction,
)

GRID = (0, 500, 999)
EACH_KIND = pytest.mark.parametrize("kind", TRAINED_KINDS)


def make_info(kind="f_t_ddpm", **changes):
    info = DirectionInfo(
        kind=kind,
        arguments=direction_arguments(kind, 16, 4, 24, GRID),
        attribute="smiling",
        src_text="face",
        trg_text="smiling face",
        base_model="tiny",
        base_fingerprint="ab12cd34",
        t_edit=513,
        t_boost=167,
        num_steps=40,
        loss={"w_clip": 1.0, "form": "log"},
        metrics={"directional_cosine": 0.25},
    )
    return replace(info, **changes)


def write_direction(path, **changes):
    info = make_info(**changes)
    direction = make_direction(info.kind, **info.arguments)
    save_direction(path, direction, info)
    return direction, info


def draw_inputs(kind="f_t_ddpm"):
    """What a direction of the kind moves, temb and t."""
    generator = torch.Generator().manual_seed(0)
    moved = torch.randn(3, 3 if kind == "f_eps" else 16, 4, 4, generator=generator)
    return moved, torch.randn(3, 24, generator=generator), torch.tensor(GRID)


@EACH_KIND
def test_a_direction_comes_back_from_its_file(tmp_path, kind):
    direction, info = write_direction(tmp_path / "new" / "a.safetensors", kind=kind)
    loaded, loaded_info = load_direction(tmp_path / "new" / "a.safetensors", "ab12cd34", "tiny")
    assert loaded_info == info == read_direction_info(tmp_path / "new" / "a.safetensors")
    assert torch.equal(loaded(*draw_inputs(kind)), direction(*draw_inputs(kind)))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.safetensors"]


@EACH_KIND
def test_a_loaded_direction_is_frozen(tmp_path, kind):
    write_direction(tmp_path / "a.safetensors", kind=kind)
    loaded, _ = load_direction(tmp_path / "a.safetensors", "ab12cd34", "tiny")
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@EACH_KIND
def test_every_kind_proposes_a_delta_of_the_shape_of_what_it_moves(kind):
    direction = make_direction(kind, **direction_arguments(kind, 16, 4, 24, GRID))
    moved, temb, t = draw_inputs(kind)
    assert direction(moved, temb, t).shape == moved.shape


def test_a_kind_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match="kind 'f_x' does not exist; choose from f_t_ddpm, f_t_adm, per_timestep"):
        make_direction("f_x")


def test_a_direction_of_another_base_model_is_refused(tmp_path):
    write_direction(tmp_path / "a.safetensors")
    message = r"trained on tiny \(ab12cd34\) and does not fit other \(ffff\).*Choose the base model tiny"
    with pytest.raises(ValueError, match=message):
        load_direction(tmp_path / "a.safetensors", "ffff", "other")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"direction .*a\.safetensors does not exist"):
        load_direction(tmp_path / "a.safetensors", "ab12cd34", "tiny")


def test_another_format_version_is_refused(tmp_path):
    write_direction(tmp_path / "a.safetensors", format_version=2)
    with pytest.raises(ValueError, match="has direction format 2, this asyrp_lit reads 1"):
        read_direction_info(tmp_path / "a.safetensors")


def test_a_file_that_names_no_version_is_of_the_first(tmp_path):
    path = tmp_path / "a.safetensors"
    write_direction(path)
    metadata = {key: value for key, value in asdict(make_info()).items() if key != "format_version"}
    save_file(load_file(path), path, metadata={"asyrp_lit": json.dumps(metadata)})
    assert load_direction(path, "ab12cd34", "tiny")[1].format_version == 1


@pytest.mark.parametrize("metadata", [None, {"asyrp_lit": "{"}, {"format": "pt"}])
def test_safetensors_of_something_else_are_not_a_direction_file(tmp_path, metadata):
    save_file({"conv1.weight": torch.zeros(2)}, tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="is not a direction file of asyrp_lit"):
        read_direction_info(tmp_path / "a.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "a.safetensors"
    write_direction(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"a\.safetensors is not a direction file of asyrp_lit"):
        load_direction(path, "ab12cd34", "tiny")


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "exploded").touch, ()

    (tmp_path / "a.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="is not a direction file"):
        load_direction(tmp_path / "a.safetensors", "ab12cd34", "tiny")
    assert not (tmp_path / "exploded").exists()


def test_the_metadata_is_json_that_a_person_can_read(tmp_path):
    _, info = write_direction(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        metadata = json.loads(file.metadata()["asyrp_lit"])
    assert (metadata["src_text"], metadata["t_edit"], metadata["base_model"]) == ("face", info.t_edit, "tiny")


def test_others_may_read_a_direction_as_far_as_the_umask_lets_them(tmp_path):
    write_direction(tmp_path / "a.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    first, _ = write_direction(tmp_path / "a.safetensors")

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match=r"cannot write the direction .*a\.safetensors: No space left.*free some space"):
        write_direction(tmp_path / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    loaded, _ = load_direction(tmp_path / "a.safetensors", "ab12cd34", "tiny")
    assert torch.equal(loaded(*draw_inputs()), first(*draw_inputs()))
