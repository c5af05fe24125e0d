"""Checkpoint files of strangers."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from asyrp_lit.models.checkpoint import identify_style, read_checkpoint

DDPM = {"temb.dense.0.weight": torch.ones(2, 2), "conv_in.weight": torch.zeros(2)}
ADM = {"time_embed.0.weight": torch.ones(2, 2), "out.2.bias": torch.zeros(2)}


@pytest.fixture
def write(tmp_path):
    def write(content, name="model.pt"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


def prefix(state_dict, text):
    return {f"{text}{key}": value for key, value in state_dict.items()}


@pytest.mark.parametrize(("state_dict", "style"), [(DDPM, "ddpm"), (ADM, "adm")])
def test_a_style_is_told_by_its_keys(write, state_dict, style):
    assert identify_style(read_checkpoint(write(state_dict), "x")) == style


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: prefix(s, "module."),
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": prefix(s, "module."), "optimizer": {"lr": 1}},
        lambda s: {"ema": s},
        lambda s: [prefix({k: v + 1 for k, v in s.items()}, "module."), {"state": {}}, 4, prefix(s, "module.")],
        lambda s: {"state_dict": prefix(s, "ema_model.") | prefix({k: v + 1 for k, v in s.items()}, "model.")},
        lambda s: {"model": {k: v + 1 for k, v in s.items()}, "ema": s},
    ],
    ids=["module", "state_dict", "model", "ema", "list of DDIM's script", "both by prefix", "both by key"],
)
def test_wrappers_are_opened_and_averaged_weights_preferred(write, wrap):
    found = read_checkpoint(write(wrap(DDPM)), "x")
    assert found.keys() == DDPM.keys()
    assert all(torch.equal(found[key], DDPM[key]) for key in DDPM)


def test_safetensors_and_files_from_before_zip_are_read(tmp_path):
    save_file(DDPM, tmp_path / "model.safetensors")
    torch.save(DDPM, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    for name in ("model.safetensors", "old.ckpt"):
        assert read_checkpoint(tmp_path / name, "x").keys() == DDPM.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**ADM, "label_emb.weight": torch.zeros(2)}, r"class-conditional .*label_emb\.weight"),
        ({"unet.up_blocks.0.lora_A.weight": torch.zeros(2)}, "a LoRA"),
        (prefix(ADM, "model.diffusion_model.") | {"cond_stage_model.x": torch.zeros(1)}, "Stable Diffusion"),
        ({"time_embedding.linear_1.weight": torch.zeros(2)}, r"diffusers' keys, .* name the folder, model\.weights=/"),
        ({"fc.weight": torch.zeros(2)}, r"neither a DDPM\+\+ nor a guided-diffusion U-Net.* but fc\.weight"),
        (torch.zeros(3), "holds a Tensor and no state dict"),
        ({"weights": 3, "epoch": 1}, "weights, epoch hold no tensors"),
        (prefix(ADM, "net.") | {"loss.x": torch.zeros(1)}, r"prefix 'net\.': loss\.x"),
    ],
)
def test_other_networks_are_refused_by_what_they_are(write, content, message):
    with pytest.raises(ValueError, match=rf"base model mine: .*model\.pt.*{message}"):
        read_checkpoint(write(content), "mine")


def test_a_text_file_and_a_cut_off_one_are_refused_in_words_of_ours(tmp_path):
    files = {name: tmp_path / name for name in ("text.pt", "text.safetensors", "empty.pt", "cut.pt", "old.pt", "x.pt")}
    for name in ("text.pt", "text.safetensors"):
        files[name].write_text("<html>\n  Quota exceeded</html>")
    files["empty.pt"].touch()
    files["x.pt"].write_bytes(b"\x80\x02a.")  # a pickle whose stack runs empty: IndexError
    for name, zipped in (("cut.pt", True), ("old.pt", False)):
        torch.save(DDPM | {"big": torch.zeros(10000)}, files[name], _use_new_zipfile_serialization=zipped)
        files[name].write_bytes(files[name].read_bytes()[:20000])
    reasons = [r"a text that begins with '<html> Quota exceeded"] * 2 + ["it is empty", "cut off", "cut off", "damaged"]
    for path, reason in zip(files.values(), reasons, strict=True):
        with pytest.raises(ValueError, match=rf"{path.name} is not a readable .*{reason}.*: fetch it again$") as caught:
            read_checkpoint(path, "x")
        assert "weights_only" not in str(caught.value)


def test_no_code_of_a_file_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    torch.save({"state_dict": Evil()}, tmp_path / "zipped.pt")
    for name in ("evil.pt", "zipped.pt"):
        with pytest.raises(ValueError, match="code is never loaded: save the U-Net's state dict alone"):
            read_checkpoint(tmp_path / name, "x")
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt does not exist"):
        read_checkpoint(tmp_path / "nowhere.pt", "x")
