"""The configuration tree: every choice composes, resolves and means what its name says."""

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from huggingface_hub import constants
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file

from asyrp_lit.hspace.attribute import resolve_attribute
from asyrp_lit.hspace.direction import TRAINED_KINDS, direction_arguments, get_space, make_direction
from asyrp_lit.hspace.published import PUBLISHED_CURVES
from asyrp_lit.models.weights import find_weights
from asyrp_lit.training.objective import LossRecipe

CONF = Path(__file__).parents[1] / "conf"
GOLDENS = Path(__file__).parent / "goldens"
FOLDERS = [folder for folder in CONF.iterdir() if folder.is_dir()]
GROUPS = {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in FOLDERS}
#: Methods that train; the others are of discover.py alone.
TRAINED = [name for name in GROUPS["method"] if name not in ("pca", "labels", "pullback")]
TEXTS = ("attr.src_text=a person", "attr.trg_text=a clown")


@pytest.fixture(scope="module", autouse=True)
def hydra_at_conf():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def resolve(cfg):
    return OmegaConf.to_container(cfg, resolve=True)


def choose(script, *overrides):
    return compose(script, list(overrides), return_hydra_config=True).hydra.runtime.choices


@pytest.fixture(scope="module")
def attributes():
    """Every attribute as it composes; without a defaults list it is the same node beside every model."""
    assert not any("defaults" in OmegaConf.load(CONF / "attr" / f"{name}.yaml") for name in GROUPS["attr"])
    return {
        name: compose("train", [f"attr={name}", *(TEXTS if name == "custom" else ())]).attr for name in GROUPS["attr"]
    }


@pytest.mark.parametrize("model", GROUPS["model"])
def test_every_attribute_composes_with_every_model(model, attributes):
    whole = compose("train", [f"model={model}", "attr=custom", *TEXTS])
    for name, attr in attributes.items():
        whole.attr = attr
        cfg = resolve(whole)
        assert resolve_attribute(cfg["attr"], cfg["model"]["domain"]).name == name
        assert cfg["model"]["build"]["name"] == cfg["model"]["name"] == model


@pytest.mark.parametrize("group", sorted(set(GROUPS) - {"attr", "model", "network", "edits"}))
def test_every_choice_of_a_group_composes(group):
    for choice in GROUPS[group]:
        assert resolve(compose("train", [f"{group}={choice}"]))["attr"]["name"]
        assert choose("train", f"{group}={choice}")[group] == choice


def test_edit_has_its_options_and_takes_no_attribute():
    cfg = resolve(compose("edit", ["combine=sum", "model=ddpmpp_celeba"]))
    assert (cfg["combine"], cfg["kind"], cfg.get("attr"), cfg["direction"]) == ("sum", "per_image", None, "glasses")


@pytest.mark.parametrize("name", [name for name in GROUPS["experiment"] if name.startswith("avatars_")])
def test_a_preset_of_the_portraits_names_its_attribute_and_wins_over_the_model(name):
    cfg, model = compose("train", [f"experiment={name}"]), compose("train", [])
    assert cfg.attr.name == name.removeprefix("avatars_") != model.attr.name
    assert cfg.interval.t_start != model.interval.t_start
    assert cfg.interval.edit_threshold != model.interval.edit_threshold
    assert compose("train", [f"experiment={name}", "interval.t_start=700"]).interval.t_start == 700


@pytest.mark.parametrize("name", [name for name in GROUPS["experiment"] if name.startswith("paper_")])
def test_a_preset_of_the_paper_has_its_recipe_and_attributes_that_exist(name):
    whole = compose("train", [f"experiment={name}"], return_hydra_config=True)
    method, loss = whole.method, whole.method.loss
    assert (whole.data.train.limit, method.num_steps, method.passes, method.batch_size) == (1000, 40, 1, 1)
    assert (method.optimizer._target_, method.optimizer.lr, method.stagger) == ("torch.optim.SGD", 0.5, False)
    assert (loss.w_clip, loss.w_l1, loss.w_keep) == (1.2 if "neanderthal" in name else 0.8, 3.0, 0.0)
    published = name != "paper_imagenet"
    assert (whole.interval.kind, whole.interval.t_start) == ("lpips" if published else "measured", 1000)
    assert (OmegaConf.select(whole, "data.curves") in PUBLISHED_CURVES) == published
    attributes = whole.hydra.sweeper.params.attr.split(",")
    assert whole.attr.name in attributes
    assert set(attributes) <= set(GROUPS["attr"])
    assert choose("train", f"experiment={name}", "attr=sad").attr == "sad"


@pytest.mark.parametrize(
    ("experiment", "model", "data"),
    [
        ("paper_celeba", "adm_p2_celeba", "celeba_hq"),
        ("paper_celeba", "iddpm_ffhq", "ffhq"),
        ("paper_celeba", "adm_p2_ffhq", "ffhq"),
        ("paper_afhq", "adm_p2_afhq", "afhq_dog"),
    ],
)
def test_a_preset_goes_with_another_base_model_of_its_domain(experiment, model, data):
    cfg = compose("train", [f"experiment={experiment}", f"model={model}"], return_hydra_config=True)
    found = cfg.hydra.runtime.choices
    assert (found.model, found.data, found.method, found.clip) == (model, data, "paper_adm", "vit_b_16")
    assert (cfg.method.loss.w_clip, cfg.method.kind, cfg.data.train.limit) == (0.8, "f_t_adm", 1000)


@pytest.mark.parametrize("network", GROUPS["network"])
def test_every_embedded_network_has_a_pretraining(network):
    cfg = resolve(compose("pretrain", [f"network={network}"]))["network"]
    assert set(cfg) == {"module", "data", "fit", "ema_decay"}


@pytest.mark.parametrize("script", ["train", "invert", "evaluate", "check_texts"])
def test_every_script_composes_for_the_default_attribute(script):
    assert resolve(compose(script))["attr"]["name"] == "glasses"


@pytest.mark.parametrize("overrides", [[], ["model=ddpmpp_celeba"], ["experiment=paper_church"], ["attr=sad"]], ids=str)
def test_the_interval_is_looked_at_for_attributes_that_exist(overrides):
    cfg = compose("measure_interval", overrides)
    assert set(resolve(cfg)["attributes"]) <= set(GROUPS["attr"])
    assert ("attr" in cfg) == ("attr=sad" in overrides)
    assert {"edit_threshold", "boost_threshold", "num_images"} <= set(cfg.interval)


SIZES = {"ddpmpp": (113_673_219, 512), "iddpm": (93_563_910, 512), "adm_p2": (93_563_910, 512)}
SIZES |= {"adm_imagenet": (552_814_086, 1024)}


@pytest.mark.parametrize(
    "model",
    [name for name in GROUPS["model"] if name.startswith(("ddpmpp_", "iddpm", "adm")) and name != "ddpmpp_avatars"],
)
def test_a_published_network_has_its_size_and_its_layout_of_f_t(model):
    cfg = compose("train", [f"model={model}"])
    parameters, width = next(SIZES[key] for key in (model, model.rpartition("_")[0]) if key in SIZES)
    with torch.device("meta"):
        unet = UNet2DModel(**instantiate(cfg.model.build.config))
    assert sum(value.numel() for value in unet.parameters()) == parameters
    assert unet.config.block_out_channels[-1] == width
    assert cfg.method.kind == ("f_t_ddpm" if model.startswith("ddpmpp") else "f_t_adm")


@pytest.mark.parametrize("model", [name for name in GROUPS["model"] if name != "ddpmpp_avatars"])
def test_a_model_knows_where_its_weights_are_looked_for(model, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cfg = compose("train", [f"model={model}", f"paths.cache={tmp_path}"])
    with pytest.raises(FileNotFoundError, match=rf"base model {model} needs .*model\.weights="):
        find_weights(model, cfg.model.weights, instantiate(cfg.model.get("source")), tmp_path)


@pytest.mark.parametrize("model", GROUPS["model"])
def test_what_is_fetched_from_the_hub_is_pinned_to_a_commit(model):
    source = compose("train", [f"model={model}"]).model.get("source", {})
    places = [place for place in source.get("places", ()) if place.startswith("hf://")]
    revisions = [source.revision] if "revision" in source else [place.split("@")[1].split("/")[0] for place in places]
    assert len(revisions) == model.startswith("hub_") + (model == "ddpmpp_celeba")
    assert all(re.fullmatch("[0-9a-f]{40}", revision) for revision in revisions)
    assert re.fullmatch("[0-9a-f]{64}", source.get("sha256") or "0" * 64)


@pytest.mark.parametrize("name", ["ddpm", "iddpm", "adm"])
def test_a_custom_checkpoint_gives_the_released_eps(name, tmp_path):
    meta = json.loads((GOLDENS / f"{name}.json").read_text())
    tensors = load_file(GOLDENS / f"{name}.safetensors")
    weights = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    torch.save(weights, tmp_path / "mine.pt")
    given = meta["constructor"]
    options = [
        f"model.weights={tmp_path}/mine.pt",
        f"model.image_size={given['image_size']}",
        f"paths.cache={tmp_path}",
        f"model.norm_eps={1e-6 if name == 'ddpm' else 1e-5}",
    ]
    if "num_head_channels" in given:
        options.append(f"model.num_head_channels={given['num_head_channels']}")
    model = instantiate(compose("train", ["model=custom", *options]).model.build)
    for t, eps in zip(meta["t_list"], tensors["eps"], strict=True):
        assert (model(tensors["x_t"], torch.full((2,), t)) - eps).abs().max() <= 1e-5


@pytest.mark.parametrize("method", ["pca", "labels", "pullback", "delta_h"])
@pytest.mark.parametrize("model", ["ddpmpp_avatars", "ddpmpp_celeba"])
def test_what_discover_finds_is_what_the_user_says_and_can_be_shown(method, model):
    overrides = (f"method={method}", f"model={model}")
    cfg = resolve(compose("discover", list(overrides)))
    assert choose("discover", *overrides).method == method
    assert cfg["method"]["kind"] == ("per_timestep" if method == "delta_h" else method)
    assert {"strengths", "judged", "num_steps", "t_0"} <= set(cfg["method"])
    assert "attr" not in cfg
    assert resolve(compose("discover", [*overrides, "attr=beard"]))["attr"]["name"] == "beard"


def test_discover_finds_principal_components_of_the_model_s_own_domain_unless_told_otherwise():
    found = choose("discover")
    assert (found.method, found.interval, found.data) == ("pca", "lpips_avatars", "avatars")
    assert choose("discover", "model=ddpmpp_celeba").method == "pca"


@pytest.mark.parametrize("script", ["train", "invert", "evaluate"])
def test_a_published_model_brings_its_data_clip_and_recipe(script):
    found = choose(script, "model=ddpmpp_celeba")
    assert (found.data, found.clip, found.method) == ("celeba_hq", "vit_b_16", "paper")


def test_what_the_user_names_wins_over_what_the_model_brings():
    found = choose("train", "data=avatars", "method=free_global", "model=ddpmpp_celeba")
    assert (found.data, found.clip, found.method) == ("avatars", "vit_b_16", "free_global")
    assert compose("train", ["model=ddpmpp_celeba", "method.batch_size=3"]).method.batch_size == 3


def test_the_embedded_model_keeps_to_the_embedded_domain():
    found = choose("train")
    assert (found.model, found.data, found.clip, found.method) == ("ddpmpp_avatars", "avatars", "avatars", "f_t")


@pytest.mark.parametrize("method", TRAINED)
def test_a_method_builds_its_direction_optimizer_and_loss(method):
    cfg = compose("train", [f"method={method}"]).method
    with torch.device("meta"):
        direction = make_direction(cfg.kind, **direction_arguments(cfg.kind, 32, 4, 64, (0, 500, 999)))
        moved = torch.empty(2, 32, 4, 4) if get_space(direction) == "h" else torch.empty(2, 3, 32, 32)
        assert direction(moved, torch.empty(2, 64), torch.empty(2, dtype=torch.int64)).shape == moved.shape
    assert instantiate(cfg.optimizer)(direction.parameters()).param_groups[0]["lr"] == cfg.optimizer.lr
    assert isinstance(instantiate(cfg.loss), LossRecipe)


def test_every_kind_of_direction_that_trains_is_named_in_the_method():
    line = next(line for line in (CONF / "method/f_t.yaml").read_text().splitlines() if line.startswith("kind:"))
    assert all(kind in line for kind in TRAINED_KINDS)


def test_an_attribute_file_is_named_as_its_direction():
    assert all(OmegaConf.load(CONF / "attr" / f"{name}.yaml").name == name for name in GROUPS["attr"])


def test_every_file_is_under_25_lines():
    assert not [file for file in CONF.rglob("*.yaml") if len(file.read_text().splitlines()) >= 25]
