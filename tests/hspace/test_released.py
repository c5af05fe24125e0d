"""Released f_t files; the layouts are written out in ``conftest.make_released`` and, as equations, below."""

import hashlib
import pickle

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch.testing import assert_close

from asyrp_lit.hspace.direction import DirectionInfo, load_direction, make_direction, save_direction
from asyrp_lit.hspace.released import check_widths, read_released, write_released
from asyrp_lit.models.hspace_unet import HSpaceUNet

LAYOUTS = pytest.mark.parametrize("layout", ["ddpm", "adm"])


def to_bytes(tensors):
    return {key: value.numpy().tobytes() for key, value in tensors.items()}


def evaluate_ddpm(state, h, temb):
    hidden = F.conv2d(h, state["conv1.weight"], state["conv1.bias"])
    hidden = hidden + F.linear(F.silu(temb), state["temb_proj.weight"], state["temb_proj.bias"])[:, :, None, None]
    hidden = F.silu(F.group_norm(hidden, 32, state["norm2.weight"], state["norm2.bias"], 1e-6))
    return F.conv2d(hidden, state["conv2.weight"], state["conv2.bias"])


def evaluate_adm(state, h, temb):
    hidden = F.silu(F.group_norm(h, 32, state["in_layers.0.weight"], state["in_layers.0.bias"], 1e-5))
    hidden = F.conv2d(hidden, state["in_layers.2.weight"], state["in_layers.2.bias"])
    time = F.linear(F.silu(temb), state["emb_layers.1.weight"], state["emb_layers.1.bias"])
    hidden = hidden + time[:, :, None, None]
    hidden = F.silu(F.group_norm(hidden, 32, state["out_layers.0.weight"], state["out_layers.0.bias"], 1e-5))
    return F.conv2d(hidden, state["out_layers.3.weight"], state["out_layers.3.bias"])


@pytest.fixture(scope="module")
def model():
    """A small random base model whose h and time embedding have the 512 channels of the released directions."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return HSpaceUNet(UNet2DModel(16, block_out_channels=(128, 512), layers_per_block=1, **blocks), "random")


@LAYOUTS
def test_the_edited_eps_is_that_of_the_released_tensors(layout, model, make_released, tmp_path):
    state = make_released(tmp_path / "a.pth", layout, 512, 512)
    released = read_released(tmp_path / "a.pth")
    texts = ("smiling", "face", "smiling face", "random", model.fingerprint())
    info = DirectionInfo(released.kind, released.arguments, *texts, t_edit=513, t_boost=167, num_steps=40)
    save_direction(tmp_path / "a.safetensors", released.direction, info)
    direction, _ = load_direction(tmp_path / "a.safetensors", model.fingerprint(), "random")
    t = torch.tensor([999, 513])
    bottleneck = model.encode(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), t)
    delta_h = {"ddpm": evaluate_ddpm, "adm": evaluate_adm}[layout](state, bottleneck.h, bottleneck.temb)
    eps_edit = model.decode(bottleneck, direction(bottleneck.h, bottleneck.temb, t))
    assert_close(eps_edit, model.decode(bottleneck, delta_h), atol=1e-6, rtol=1e-6)
    assert (eps_edit - model.decode(bottleneck)).abs().mean() > 0.01


@LAYOUTS
def test_tensors_come_and_go_byte_for_byte(layout, make_released, tmp_path):
    state = make_released(tmp_path / "a.pth", layout)
    released = read_released(tmp_path / "a.pth")
    write_released(tmp_path / "new" / "b.pth", released.direction)
    content = torch.load(tmp_path / "new" / "b.pth", weights_only=True)
    assert to_bytes(content["0"]) == to_bytes(state) == to_bytes(released.direction.state_dict())
    assert list(content["0"]) == list(state)
    assert released.sha256 == hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()


@LAYOUTS
def test_training_goes_on_from_a_written_file_as_from_a_released_one(layout, make_released, tmp_path):
    make_released(tmp_path / "a.pth", layout)
    direction = read_released(tmp_path / "a.pth").direction
    write_released(tmp_path / "b.pth", direction)
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    assert list(content) == ["0", "optimizer", "scheduler"]
    optimizer = torch.optim.SGD(direction.requires_grad_(True).parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.load_state_dict(content["optimizer"])
    scheduler.load_state_dict(content["scheduler"])
    optimizer.step()
    scheduler.step()
    assert (optimizer.param_groups[0]["lr"], scheduler.step_size, scheduler.last_epoch) == (0.5, 20, 1)


@pytest.mark.parametrize(("layout", "parameters"), [("ddpm", 788_992), ("adm", 790_016)])
def test_layout_and_widths_are_read_from_the_tensors(layout, parameters, make_released, tmp_path):
    make_released(tmp_path / "a.pth", layout, 512, 512)
    released = read_released(tmp_path / "a.pth")
    assert released.kind == f"f_t_{layout}"
    assert released.arguments == {"h_channels": 512, "temb_channels": 512, "num_groups": None}
    assert sum(parameter.numel() for parameter in released.direction.parameters()) == parameters


def test_tensors_of_a_gpu_come_to_the_cpu(make_released, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    state = make_released(tmp_path / "a.pth")
    assert b"cuda:0" in (tmp_path / "a.pth").read_bytes()
    assert to_bytes(read_released(tmp_path / "a.pth").direction.state_dict()) == to_bytes(state)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "exploded").touch, ()

    torch.save({"0": Bomb()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Bomb(), protocol=2))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(ValueError, match=rf"{name} is refused .*: it is a pickle that would run code \("):
            read_released(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"no state dict at all\n", b"PK\x03\x04" + bytes(200), b"\x80\x02}q\x00"])
def test_a_file_of_something_else_is_refused(content, tmp_path):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pth is refused as a released f_t file: .* something else; download it"):
        read_released(tmp_path / "a.pth")


@pytest.mark.parametrize("kept", [10, 1000, 20_000, -1])
def test_a_file_that_is_cut_off_is_refused(kept, make_released, tmp_path):
    make_released(tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"a\.pth is refused as a released f_t file: it is damaged"):
        read_released(tmp_path / "a.pth")


def test_one_flipped_bit_among_the_numbers_is_found(make_released, tmp_path):
    make_released(tmp_path / "a.pth")
    content = bytearray((tmp_path / "a.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pth is refused as a released f_t file: it is damaged"):
        read_released(tmp_path / "a.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"released direction .*a\.pth does not exist"):
        read_released(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"1": {}}, "that holds 0, optimizer, scheduler, this one 0, optimizer, scheduler, 1"),
        ({"0": [1, 2]}, "its entry 0 is no state dict of tensors"),
        ({"0": {"conv1.weight": 3}}, "its entry 0 is no state dict of tensors"),
        ({"0": {"conv1.weight": torch.zeros(2)}}, "f_t_ddpm it lacks conv1.bias, conv2.bias, conv2.weight, norm2.bias"),
    ],
    ids=["two layers", "a list", "numbers", "one tensor"],
)
def test_a_dict_of_something_else_is_refused(changes, message, make_released, tmp_path):
    make_released(tmp_path / "a.pth", **changes)
    with pytest.raises(ValueError, match=message):
        read_released(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("conv3.weight", torch.zeros(64), "of f_t_ddpm it has conv3.weight"),
        (
            "conv2.bias",
            torch.zeros(32),
            r"conv2.bias must have the shape \(64,\) as temb_proj.weight tells, not \(32,\)",
        ),
        ("temb_proj.weight", torch.zeros(64), r"temb_proj.weight must have 2 dimensions, not shape \(64,\)"),
        ("norm2.bias", torch.full((64,), torch.nan), "norm2.bias must hold finite float32 numbers"),
        ("norm2.bias", torch.zeros(64).half(), r"norm2.bias must hold finite float32 numbers \(torch.float16\)"),
    ],
    ids=["key", "shape", "dimensions", "nan", "half"],
)
def test_a_state_dict_that_is_no_f_t_is_refused(key, value, message, make_released, tmp_path):
    state = make_released(tmp_path / "a.pth")
    make_released(tmp_path / "a.pth", **{"0": state | {key: value}})
    with pytest.raises(ValueError, match=message):
        read_released(tmp_path / "a.pth")


def test_an_f_t_of_another_width_is_refused_with_both_widths():
    arguments = {"h_channels": 512, "temb_channels": 512, "num_groups": None}
    check_widths(arguments, "big", 512, 512)
    message = "f_t is for 512 channels of h and a time embedding of 512; base model small has 128 and 512"
    with pytest.raises(ValueError, match=message):
        check_widths(arguments, "small", 128, 512)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("global", {"h_channels": 32, "h_size": 2}, "only f_t has a released layout .* not GlobalDelta"),
        ("f_t_ddpm", {"h_channels": 48, "temb_channels": 8, "num_groups": None}, "32 groups only, this one has 24"),
        ("f_t_adm", {"h_channels": 32, "temb_channels": 8, "use_time": False}, "this one has 32 groups and no time"),
    ],
)
def test_a_direction_that_the_released_code_does_not_know_is_not_written(kind, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_released(tmp_path / "a.pth", make_direction(kind, **arguments))
    assert not list(tmp_path.iterdir())
