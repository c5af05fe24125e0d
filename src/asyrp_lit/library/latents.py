"""x_T of pictures, and x_T drawn at random."""

from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import torch

from asyrp_lit.data.latents import to_uint8
from asyrp_lit.data.random_latents import RandomLatents
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.editing.strengths import to_python
from asyrp_lit.inversion.invert import invert_images
from asyrp_lit.library.images import ImageInput, to_tensor
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Edits, Images

#: Of inversion and generation where nothing says; what directions are trained with.
NUM_STEPS = 40
#: Images per pass.
BATCH_SIZE = 16


@dataclass(frozen=True)
class Latents:
    """Where edits begin.

    Attributes:
        x_T: (B, 3, S, S) float32.
        num_steps: of the inversion; an edit takes as many down again.
        contents: what the boosting noise of each image follows from; empty: x_T itself.
        model: which inverted the images; ``None`` where they were drawn, and in copies by pickle.
    """

    x_T: Images
    num_steps: int = NUM_STEPS
    contents: tuple[bytes, ...] = field(default=(), repr=False)
    model: HSpaceUNet | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "model": None}

    def check_fits(self, model: HSpaceUNet) -> None:
        """See that they are of a base model.

        Raises:
            ValueError: another one inverted them, or its images have another size.
        """
        size = self.x_T.shape[-1]
        if size != model.image_size:
            raise ValueError(f"these latents are of {size} px, {model.name} makes images of {model.image_size}")
        if self.model not in (None, model) and self.model.fingerprint() != model.fingerprint():
            raise ValueError(
                f"these latents were inverted by {self.model.name}, other weights than those of {model.name}: invert "
                "the images with the model that edits them"
            )

    def __len__(self) -> int:
        return len(self.x_T)

    def list_contents(self) -> tuple[bytes, ...]:
        """What the boosting noise of each image follows from."""
        return self.contents or tuple(x.cpu().numpy().tobytes() for x in self.x_T)


def check_count(name: str, value: object, least: int = 1) -> int:
    """A number of images or steps, also numpy's or torch's, as Python's.

    Raises:
        ValueError: it is no whole number, or less than the least.
    """
    count = to_python(value)
    if type(count) is not int or count < least:
        raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}")
    return count


def check_steps(num_steps: object, name: str = "num_steps") -> int | None:
    """A number of steps, or ``None``.

    Raises:
        ValueError: it is no whole number, 2 or more.
    """
    return None if num_steps is None else check_count(name, num_steps, 2)


def get_device(model: HSpaceUNet) -> torch.device:
    """Where a model computes."""
    return next(model.parameters()).device


def invert(
    model: HSpaceUNet,
    images: ImageInput,
    num_steps: SupportsIndex = NUM_STEPS,
    batch_size: SupportsIndex = BATCH_SIZE,
) -> Latents:
    """x_T of images by DDIM inversion, ``num_steps - 1`` passes each.

    Args:
        model: from ``load_model``.
        images: PIL images, paths or a tensor, as for ``to_tensor``.
        num_steps: points of the time grid; an edit from these latents has the same.
        batch_size: images per pass.

    Raises:
        FileNotFoundError, TypeError, ValueError: the images are not what ``to_tensor`` takes.
        FloatingPointError: x_T is not finite.
    """
    batch_size, num_steps = check_count("batch_size", batch_size), check_count("num_steps", num_steps, 2)
    x_0 = to_tensor(images, model.image_size)
    device, grid = get_device(model), make_time_grid(num_steps)
    alphas_cumprod = make_alphas_cumprod().to(device)
    parts = [invert_images(model, part.to(device), grid, alphas_cumprod).x_T for part in torch.split(x_0, batch_size)]
    x_T = torch.cat(parts)
    if not x_T.isfinite().all():
        raise FloatingPointError("x_T is not finite: the network's weights are damaged, or the precision is too low")
    return Latents(x_T, num_steps, tuple(pixels.numpy().tobytes() for pixels in to_uint8(x_0.cpu())), model)


def draw_latents(
    model: HSpaceUNet, num_images: SupportsIndex, num_steps: SupportsIndex = NUM_STEPS, seed: SupportsIndex = 0
) -> Latents:
    """x_T drawn at random, of which the model makes pictures itself; the same as those of ``edit.py images=random``.

    Raises:
        ValueError: a number is out of range.
    """
    num_images, num_steps = check_count("num_images", num_images), check_count("num_steps", num_steps, 2)
    source = RandomLatents("edit", num_images, model.image_size, check_count("seed", seed, 0))
    x_T = torch.stack([source[index].x_T for index in range(num_images)])
    return Latents(x_T.to(get_device(model)), num_steps, tuple(key.encode() for key in source.keys))


def reconstruct(
    model: HSpaceUNet,
    images: ImageInput | Latents,
    num_steps: SupportsIndex | None = None,
    batch_size: SupportsIndex = BATCH_SIZE,
) -> Edits:
    """The images that latents are of, without any edit: plain inversion and back; of drawn latents the model's samples.

    Args:
        model: from ``load_model``.
        images: latents, or images as for ``invert``.
        num_steps: of both ways; ``None`` for the latents' own, or 40.
        batch_size: images per pass.

    Returns:
        (B, 3, S, S) float32, about [-1, 1], not clipped.

    Raises:
        ValueError: the latents took another number of steps, or as for ``invert``.
    """
    batch_size, num_steps = check_count("batch_size", batch_size), check_steps(num_steps)
    latents = find_latents(model, images, num_steps, NUM_STEPS, batch_size)
    device, grid = get_device(model), make_time_grid(latents.num_steps)
    alphas_cumprod = make_alphas_cumprod().to(device)
    parts = torch.split(latents.x_T, batch_size)
    return torch.cat([sample_images(model, x_T.to(device), grid, alphas_cumprod).float() for x_T in parts])


def find_latents(
    model: HSpaceUNet, images: ImageInput | Latents, num_steps: int | None, default: int, batch_size: int
) -> Latents:
    """Latents as they are, images inverted.

    Raises:
        ValueError: the latents took another number of steps than is asked for, are of another model, or as for
            ``invert``.
    """
    if not isinstance(images, Latents):
        return invert(model, images, default if num_steps is None else num_steps, batch_size)
    if num_steps not in (None, images.num_steps):
        raise ValueError(
            f"these latents took {images.num_steps} steps, num_steps is {num_steps}: leave num_steps out, or invert "
            f"the images with {num_steps}"
        )
    images.check_fits(model)
    return images
