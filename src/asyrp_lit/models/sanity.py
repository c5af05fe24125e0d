"""Does a base model denoise? A check of settings that no shape tells (head width, sinusoid, schedule)."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import chain, product

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import Timesteps

from asyrp_lit.diffusion.schedule import gather_alpha_bar, make_alphas_cumprod
from asyrp_lit.models.convert_adm import merge_legacy_qkv, split_legacy_qkv
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.models.registry import NORM_EPS
from asyrp_lit.shapes import Images

#: Lightly noised: the image is still plain to see, and a working network finds nearly all of the noise.
TIMESTEPS = (50, 100, 200)
#: Widths of attention heads that people use.
HEAD_WIDTHS = (16, 32, 64, 128, 256)
#: Images for the comparison of settings, at the middle timestep.
_COMPARED = 2
#: Another setting must have less than this share of the error to be taken for the right one.
_BETTER = 0.9


@torch.no_grad()
def measure_eps_error(model: HSpaceUNet, x_0: Images, timesteps: Sequence[int] = TIMESTEPS, seed: int = 0) -> float:
    """Mean squared error of eps on lightly noised images: 0 is perfect, 1 is no better than eps = 0.

    Takes one pass for each image and timestep.

    Args:
        model: the frozen network.
        x_0: images of its domain in [-1, 1].
        timesteps: of the noise.
        seed: of the noise.
    """
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed)).to(x_0.device)
    table, errors = make_alphas_cumprod().to(x_0.device), []
    for t in timesteps:
        steps = torch.full((len(x_0),), t, device=x_0.device)
        alpha_bar_t = gather_alpha_bar(table, steps)
        x_t = alpha_bar_t.sqrt() * x_0 + (1 - alpha_bar_t).sqrt() * eps
        errors.append((model(x_t, steps).float() - eps).square().mean())
    return float(torch.stack(errors).mean())


def check_eps_error(model: HSpaceUNet, x_0: Images, largest: float) -> float:
    """The error, if it is small enough.

    Args:
        model: the frozen network.
        x_0: images of its domain in [-1, 1].
        largest: error that is still accepted.

    Raises:
        ValueError: it is larger or no number.
    """
    error = measure_eps_error(model, x_0)
    if error <= largest:
        return error
    raise ValueError(
        f"base model {model.name} finds {error:.3f} of the noise's power wrong on {len(x_0)} lightly noised images, "
        f"more than model.max_eps_error={largest:g}: a setting is wrong (model.num_head_channels, "
        "image_size), its schedule is not DDPM's linear one, or the images are none that it was trained on; "
        "model.max_eps_error=null leaves this check out"
    )


def check_norm_eps(model: HSpaceUNet, converted: bool) -> None:
    """See that the eps of GroupNorms is one that such networks are trained with, for no measurement tells a wrong one.

    Args:
        model: the frozen network.
        converted: from a checkpoint in an original key style, whose code has one value, not from a diffusers folder.

    Raises:
        ValueError: it is another.
    """
    config = model.unet.config
    usual = [NORM_EPS["adm" if config["flip_sin_to_cos"] else "ddpm"]] if converted else sorted(NORM_EPS.values())
    if config["norm_eps"] not in map(float, usual):
        raise ValueError(
            f"base model {model.name}: the eps of its GroupNorms is set to {config['norm_eps']:g}, but such networks "
            f"are trained with {' or '.join(usual)}: give that, as model.norm_eps or in config.json of a diffusers "
            "folder; if it was trained with another, model.max_eps_error=null leaves out this check and the others"
        )


def regroup_heads(model: HSpaceUNet, old: int, new: int) -> HSpaceUNet:
    """A copy of a converted guided-diffusion network as if its heads were ``new`` channels wide instead of ``old``.

    Raises:
        ValueError: ``new`` does not divide the channels of an attention.
    """
    other = deepcopy(model)
    for attention in (module for module in other.modules() if isinstance(module, Attention)):
        layers = (attention.to_q, attention.to_k, attention.to_v)
        for kind in ("weight", "bias"):
            query, key, value = (getattr(layer, kind).data for layer in layers)
            legacy = merge_legacy_qkv(query, key, value, head_dim=old)
            for layer, part in zip(layers, split_legacy_qkv(legacy, new), strict=True):
                getattr(layer, kind).data = part
        attention.heads, attention.scale = attention.heads * old // new, new**-0.5
    return other


def shift_sinusoid(model: HSpaceUNet, flip_sin_to_cos: bool, freq_shift: int) -> HSpaceUNet:
    """A copy of a network with another sinusoid of the timestep: order of its halves, shift of its frequencies."""
    other = deepcopy(model)
    for sinusoid in (module for module in other.modules() if isinstance(module, Timesteps)):
        sinusoid.flip_sin_to_cos, sinusoid.downscale_freq_shift = flip_sin_to_cos, freq_shift
    return other


def compare_settings(model: HSpaceUNet, x_0: Images, width: int | None = None) -> None:
    """See that no other setting that shapes leave open denoises notably better: heads' width, sinusoid.

    Takes two images through the network at one timestep for each setting. The eps of GroupNorms is not among them: of a
    trained network it changes the error by a millionth; ``check_norm_eps`` sees to it.

    Args:
        model: the frozen network.
        x_0: images of its domain in [-1, 1].
        width: channels of one attention head, of a network converted with it; ``None`` for one of diffusers' own.

    Raises:
        ValueError: another setting does.
    """
    model = model.without_compiling()  # each setting would be compiled, for two images
    errors = {
        setting: measure_eps_error(other, x_0[:_COMPARED], TIMESTEPS[1:2])
        for setting, other in chain([("", model)], _vary_heads(model, width), _vary_sinusoid(model))
    }
    own = errors.pop("")
    best = min(errors, key=lambda setting: errors[setting], default="")
    if best and errors[best] < _BETTER * own:
        raise ValueError(
            f"base model {model.name} denoises better with {best} (error {errors[best]:.4f}) than as it is set "
            f"({own:.4f}): take that, in config.json of a diffusers folder or on the command line; "
            "model.max_eps_error=null leaves this check out"
        )


def split_heads(model: HSpaceUNet, width: int | None) -> HSpaceUNet:
    """A copy of a network of diffusers' own with heads of another width; ``None`` for one head."""
    other = deepcopy(model)
    for attention in (module for module in other.modules() if isinstance(module, Attention)):
        attention.heads = 1 if width is None else attention.to_q.out_features // width
        attention.scale = (attention.to_q.out_features / attention.heads) ** -0.5
    return other


def _vary_heads(model: HSpaceUNet, width: int | None) -> Iterator[tuple[str, HSpaceUNet]]:
    channels = [m.to_q.out_features for m in model.modules() if isinstance(m, Attention)]
    fitting = [w for w in sorted({*HEAD_WIDTHS, *channels}) if all(c % w == 0 for c in channels)]  # channels: one head
    if width is not None:
        for other in fitting:
            if other != width:
                yield f"model.num_head_channels={other}", regroup_heads(model, width, other)
    elif channels:
        for choice in (None, *fitting):
            yield f"attention_head_dim={'null' if choice is None else choice}", split_heads(model, choice)


def _vary_sinusoid(model: HSpaceUNet) -> Iterator[tuple[str, HSpaceUNet]]:
    for sinusoid in [module for module in model.modules() if isinstance(module, Timesteps)][:1]:
        own = bool(sinusoid.flip_sin_to_cos), int(sinusoid.downscale_freq_shift)
        for flip, shift in product((False, True), (0, 1)):
            if (flip, shift) != own:
                yield f"flip_sin_to_cos={flip} and freq_shift={shift}", shift_sinusoid(model, flip, shift)
