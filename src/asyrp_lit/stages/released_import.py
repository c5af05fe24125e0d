"""Import of released f_t files: what the file name and the overrides tell, and the direction file from it."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.hspace.attribute import Attribute, resolve_attribute
from asyrp_lit.hspace.direction import DirectionInfo, save_direction
from asyrp_lit.hspace.interval import check_interval, choose_interval
from asyrp_lit.hspace.published import PUBLISHED_CURVES, load_published_curves
from asyrp_lit.hspace.released import ReleasedDirection, check_widths, read_released
from asyrp_lit.hspace.released_names import CATEGORIES, ReleasedName, check_base_model, parse_released_name
from asyrp_lit.losses.clip import FrozenCLIP, find_clip_weights
from asyrp_lit.losses.directional import compute_cos_text
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.stages.build import build_clip
from asyrp_lit.stages.guard import raise_failed, try_each

log = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
#: A domain of no base model here: the texts that a released direction was trained with, never those of the portraits.
_RELEASED_DOMAIN = "released"


class Plan(NamedTuple):
    """A released file and everything that an import needs to know of it beside the base model."""

    path: Path
    out: Path
    category: str
    attribute: Attribute
    released: ReleasedDirection
    interval: Interval
    num_steps: int
    loss: dict[str, Any]


def import_files(paths: Sequence[Path], overrides: Sequence[str], conf: Path) -> None:
    """Write a direction file for every released file; what fails gets a message, the others are written.

    Raises:
        ValueError: no file is named, or some failed.
    """
    if not paths:
        raise ValueError("import needs one file or more: python directions.py import FILE.pth model=NAME")
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        cfg = compose("directions", list(overrides))
    if cfg.cos_text is not None and len(paths) > 1:
        raise ValueError("cos_text belongs to one attribute: import one file at a time, or leave it out")
    cosine = TextCosine(cfg)
    plans, failed = try_each(paths, str, lambda path: plan_import(cfg, path, len(paths) > 1, cosine, conf))
    repeated = [str(out) for out, count in Counter(plan.out for plan in plans).items() if count > 1]
    if repeated:
        raise ValueError(f"two files would both be written to {repeated[0]}: import them one at a time with out=PATH")
    if plans:
        model = instantiate(cfg.model.build)
        fingerprint = model.fingerprint()
        failed += try_each(plans, lambda plan: str(plan.path), lambda plan: write_import(plan, model, fingerprint))[1]
    raise_failed(failed, len(paths))


def plan_import(cfg: DictConfig, path: Path, several: bool, cosine: "TextCosine", conf: Path) -> Plan:
    """Read a released file and settle its attribute, interval and steps.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, is for another base model, or something about it has to be given.
    """
    released = read_released(path)
    name = parse_released_name(path.name)
    _check_told(cfg, path, name)
    category = name.category if name else ""
    if category in CATEGORIES and not check_base_model(category, cfg.model.name):
        wanted = CATEGORIES[category].base_model
        log.warning("%s was trained on %s: is %s the same network?", path.name, wanted, cfg.model.name)
    attribute = find_attribute(cfg, name, conf)
    curves = cfg.curves or (CATEGORIES[category].curves if category in CATEGORIES else None)
    interval, loss = choose_imported_interval(cfg, curves, attribute, cosine)
    num_steps = cfg.num_steps if cfg.num_steps is not None or name is None else name.num_steps
    if type(num_steps) is not int or num_steps < 1:
        raise ValueError(f"num_steps must be a whole number, 1 or more, got {num_steps!r}")
    out = choose_output(Path(cfg.out), name.title if name else attribute.name, several)
    return Plan(path, out, category, attribute, released, interval, num_steps, loss)


def _check_told(cfg: DictConfig, path: Path, name: ReleasedName | None) -> None:
    """See that file name and overrides together tell attribute, curves and number of steps.

    Raises:
        ValueError: they do not; the message says which overrides are missing.
    """
    by_name = {"attr": name is not None, "num_steps": name is not None}
    by_name["curves"] = cfg.interval.kind == "fixed" or (name is not None and name.category in CATEGORIES)
    missing = [key for key, told in by_name.items() if not told and OmegaConf.select(cfg, key) is None]
    if not missing:
        return
    hints = {
        "attr": "attr=NAME (a file of conf/attr, or custom)",
        "num_steps": "num_steps=40 (generation steps in training)",
        "curves": f"curves={'|'.join(PUBLISHED_CURVES)} (or interval=fixed interval.t_edit=... interval.t_boost=...)",
    }
    reason = (
        f"its category is {name.category!r}, known are {', '.join(CATEGORIES)}"
        if name
        else ("released files are named like smiling_LC_CelebA_HQ_t999_ninv40_ngen40_0.pth")
    )
    wanted = ", ".join(hints[key] for key in missing)
    raise ValueError(f"the name of {path} does not tell what it was trained for ({reason}): add {wanted}")


def find_attribute(cfg: DictConfig, name: ReleasedName | None, conf: Path) -> Attribute:
    """The attribute that the user names, else that of the file name, always with the texts it was released with.

    Raises:
        ValueError: there is none of that name.
    """
    domain = cfg.model.domain if name is None else _RELEASED_DOMAIN
    if "attr" in cfg:
        return _resolve(cfg.attr, domain)
    assert name is not None  # else _check_told has asked for attr
    attribute = load_attribute(name, conf)
    if attribute is None:
        raise ValueError(
            f"attribute {name.attribute!r} has no file in conf/attr: add attr=NAME, or attr=custom "
            f"attr.name={name.attribute} attr.src_text='...' attr.trg_text='...'"
        )
    return attribute


def load_attribute(name: ReleasedName, conf: Path) -> Attribute | None:
    """The attribute of a released file with the texts it was released with; ``None`` where conf/attr has none."""
    file = conf / "attr" / f"{name.attribute}.yaml"
    return _resolve(OmegaConf.load(file), _RELEASED_DOMAIN) if file.is_file() else None


def _resolve(attr: Any, domain: str) -> Attribute:
    values = OmegaConf.to_container(attr, resolve=True)
    assert isinstance(values, Mapping)
    return resolve_attribute({str(key): value for key, value in values.items()}, domain)


class TextCosine:
    """The cosine of an attribute's two bare prompts: as given, else by the CLIP of the configuration.

    Args:
        cfg: with ``cos_text`` and ``clip``; CLIP is loaded at its first use, never downloaded.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.clip: FrozenCLIP | None = None

    def __call__(self, attribute: Attribute) -> tuple[float, str]:
        """The cosine and where it is from: ``given`` or the name of the CLIP.

        Raises:
            ValueError: it is no cosine, or CLIP's weights are not on this machine.
        """
        given, chosen = self.cfg.cos_text, self.cfg.clip
        if given is not None:
            if type(given) not in (int, float) or not -1 <= given <= 1:
                raise ValueError(f"cos_text must be a number from -1 to 1, got {given!r}")
            return float(given), "given"
        if self.clip is None:
            self.clip = self._load(attribute)
        return compute_cos_text(self.clip, attribute.src_text, attribute.trg_text), f"{chosen.name}/{chosen.weights}"

    def _load(self, attribute: Attribute) -> FrozenCLIP:
        chosen = self.cfg.clip
        file = find_clip_weights(chosen.name, chosen.weights, chosen.cache)
        if file is None:
            texts = f"{attribute.src_text!r} and {attribute.trg_text!r}"
            raise ValueError(
                f"t_edit needs the cosine of the texts {texts}, and the weights of CLIP {chosen.name} are not in "
                f"{chosen.cache}: add cos_text=NUMBER, or clip.weights=/path/to/file"
            )
        return build_clip(OmegaConf.merge(self.cfg, {"clip": {"weights": str(file)}}))  # type: ignore[arg-type]


def choose_imported_interval(
    cfg: DictConfig, curves: str | None, attribute: Attribute, cosine: TextCosine
) -> tuple[Interval, dict[str, Any]]:
    """The interval, and what the direction file says about how it was found.

    Raises:
        ValueError: the kind of interval is none that needs no images, or the curves have no such interval.
    """
    chosen = cfg.interval
    if chosen.kind == "fixed":
        return check_interval(chosen.t_edit, chosen.t_boost, chosen.t_start), {}
    if chosen.kind != "lpips" or curves is None:
        raise ValueError(f"import takes interval=lpips (the published curves) or interval=fixed, not {chosen.kind!r}")
    published = load_published_curves(curves)
    cos_text, origin = cosine(attribute)
    t_edit, t_boost, _ = choose_interval(published, cos_text, chosen.edit_threshold, chosen.boost_threshold)
    interval = check_interval(t_edit, t_boost, chosen.t_start)
    return interval, {"cos_text": round(cos_text, 4), "cos_text_from": origin, "curves": curves}


def choose_output(out: Path, title: str, several: bool) -> Path:
    """The file to write: ``out`` itself where it ends in .safetensors, else ``title`` in that folder.

    Raises:
        ValueError: one file is named for several directions.
    """
    if out.suffix != _SUFFIX:
        return out / f"{title}{_SUFFIX}"
    if several:
        raise ValueError(f"out={out} names one file for several directions: name a folder")
    return out


def write_import(plan: Plan, model: HSpaceUNet, fingerprint: str) -> None:
    """Write the direction file of a plan.

    Raises:
        ValueError: f_t does not fit the base model.
    """
    released, attribute = plan.released, plan.attribute
    check_widths(released.arguments, model.name, model.h_channels, model.temb_channels)
    info = DirectionInfo(
        kind=released.kind,
        arguments=released.arguments,
        attribute=attribute.name,
        src_text=attribute.src_text,
        trg_text=attribute.trg_text,
        base_model=model.name,
        base_fingerprint=fingerprint,
        **plan.interval._asdict(),
        num_steps=plan.num_steps,
        loss=plan.loss,
        source={"format": "released", "file": plan.path.name, "category": plan.category, "sha256": released.sha256},
    )
    save_direction(plan.out, released.direction, info)
    log.info("%s -> %s (%s, t_edit %d, t_boost %d)", plan.path.name, plan.out, attribute.name, *plan.interval[:2])
