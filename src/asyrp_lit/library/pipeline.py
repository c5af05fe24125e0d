"""Asyrp as a pipeline of diffusers."""

from collections.abc import Sequence
from math import ceil
from typing import Any, SupportsIndex

import torch
from diffusers import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

from asyrp_lit.editing.strengths import combine_strengths, spread_strengths
from asyrp_lit.hspace.direction import IMAGE_CHANNELS
from asyrp_lit.library.edit import check_options, count_batches, edit, plan_edit
from asyrp_lit.library.images import to_tensor
from asyrp_lit.library.latents import BATCH_SIZE, NUM_STEPS, Latents, check_count, check_steps, invert, reconstruct
from asyrp_lit.library.parts import PipelineParts
from asyrp_lit.library.pixels import PipelineInput, PipelineOutput, check_output_type, read_pixels, show_pixels

#: Random numbers of a call, as in diffusers: one generator, or one an image.
Generators = torch.Generator | Sequence[torch.Generator] | None


class AsyrpPipeline(PipelineParts):
    """Edits of images with directions in the h-space of an unconditional UNet2DModel.

    Weights stay in float32; ``to(torch.bfloat16)`` lets the network's passes run in bfloat16 by autocast, since a
    direction fits the weights it was trained on and no others.

    Args:
        unet: an unconditional UNet2DModel that predicts eps.
        scheduler: any scheduler of diffusers with DDPM's linear schedule. It says which schedule the network has; the
            steps are taken on the method's own time grid, whatever the scheduler's spacing.
        base_model: name of the network, for messages.

    Raises:
        ValueError: another kind of network, weights not in float32, or another schedule.
    """

    @torch.no_grad()
    def __call__(
        self,
        image: PipelineInput | Latents | None = None,
        direction: str | Sequence[str] | None = None,
        strength: object = 1.0,
        num_inference_steps: SupportsIndex | None = None,
        batch_size: SupportsIndex = 1,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
        images_per_pass: SupportsIndex = BATCH_SIZE,
        **options: Any,
    ) -> ImagePipelineOutput | tuple[PipelineOutput]:
        """Edit images; without images edit the model's own samples, and without a direction too just sample.

        Args:
            image: one or several PIL images or paths, a tensor (B, 3, S, S) or an array (B, S, S, 3) in [0, 1], or
                several, or what ``invert`` returned. ``None`` for samples.
            direction: one name or several of ``directions``; several are added, over the root of their number.
            strength: as for ``asyrp_lit.edit``; lists give an edit for every combination, all images of the first
                combination before those of the second.
            num_inference_steps: of inversion and generation; ``None`` for those of the training, or 40 for samples.
            batch_size: how many samples; 1 where images are given.
            generator: of the samples and the boosting noise, one or one an image; ``None``: samples differ from call to
                call, and the boosting noise follows from each image alone.
            output_type: ``pil``, ``np`` or ``pt``, the last two in [0, 1].
            return_dict: whether to return an ``ImagePipelineOutput``, or a tuple.
            images_per_pass: about; results depend on it by rounding only.
            **options: as for ``asyrp_lit.edit``, such as ``where`` and ``t_boost``; without a direction none.

        Raises:
            FileNotFoundError, TypeError, ValueError: an argument is not possible; the message says what is.
        """
        kind = check_output_type(output_type)
        check_options(options)
        batch_size, images_per_pass = _check_sizes(batch_size, images_per_pass, image is not None)
        num_inference_steps = check_steps(num_inference_steps, "num_inference_steps")
        chosen = [self.get_direction(name) for name in ([direction] if isinstance(direction, str) else direction or ())]
        if image is not None and not chosen:
            raise ValueError(f"direction must name one of {self.list_names()}; pipe.reconstruct takes none")
        strengths = combine_strengths(spread_strengths(strength, max(1, len(chosen))))
        if not chosen and (options or strengths != [(1.0,)]):
            raise ValueError(f"{', '.join(options) or 'strength'} needs a direction: name one of {self.list_names()}")
        steps = NUM_STEPS if num_inference_steps is None else num_inference_steps
        if chosen:  # what cannot be edited is found before any work
            loaded = [found.place_on(self.model, self.device) for found in chosen]
            steps = len(plan_edit(self.model, loaded, num_inference_steps, **options).grid)
        if image is None:
            latents = self._draw(batch_size, steps, generator)
        elif isinstance(image, Latents):
            latents = image
        else:
            latents = self.invert(image, steps, images_per_pass)
        if not chosen:
            return self.reconstruct(latents, None, output_type, return_dict, images_per_pass)
        seeds = _draw_seeds(generator)
        batches = count_batches(len(latents), strengths, images_per_pass)
        with self.compute(batches * latents.num_steps):
            edits = edit(self.model, latents, chosen, strength, num_inference_steps, seeds, images_per_pass, **options)
        return _wrap(show_pixels(edits, kind), return_dict)

    @torch.no_grad()
    def invert(
        self,
        image: PipelineInput,
        num_inference_steps: SupportsIndex = NUM_STEPS,
        images_per_pass: SupportsIndex = BATCH_SIZE,
    ) -> Latents:
        """x_T of images, to be edited more than once without another inversion; arguments as for a call."""
        images_per_pass = check_count("images_per_pass", images_per_pass)
        num_inference_steps = check_count("num_inference_steps", num_inference_steps, 2)
        x_0 = to_tensor(read_pixels(image), self.model.image_size)
        with self.compute(ceil(len(x_0) / images_per_pass) * (num_inference_steps - 1)):
            return invert(self.model, x_0, num_inference_steps, images_per_pass)

    @torch.no_grad()
    def reconstruct(
        self,
        image: PipelineInput | Latents,
        num_inference_steps: SupportsIndex | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        images_per_pass: SupportsIndex = BATCH_SIZE,
    ) -> ImagePipelineOutput | tuple[PipelineOutput]:
        """Plain inversion and back, the most that an edit can keep of an image; arguments as for a call."""
        kind = check_output_type(output_type)
        images_per_pass = check_count("images_per_pass", images_per_pass)
        num_inference_steps = check_steps(num_inference_steps, "num_inference_steps")
        steps = NUM_STEPS if num_inference_steps is None else num_inference_steps
        latents = image if isinstance(image, Latents) else self.invert(image, steps, images_per_pass)
        with self.compute(ceil(len(latents) / images_per_pass) * latents.num_steps):
            images = reconstruct(self.model, latents, num_inference_steps, images_per_pass)
        return _wrap(show_pixels(images, kind), return_dict)

    def _draw(self, num_images: int, num_steps: int, generator: Generators) -> Latents:
        size = self.model.image_size
        x_T = randn_tensor((num_images, IMAGE_CHANNELS, size, size), generator, self.device, torch.float32)
        return Latents(x_T, num_steps)


def _check_sizes(batch_size: SupportsIndex, images_per_pass: SupportsIndex, has_images: bool) -> tuple[int, int]:
    """How many samples, and images per pass.

    Raises:
        ValueError: they are no whole numbers, 1 or more, or samples are asked for where there are images.
    """
    if check_count("batch_size", batch_size) != 1 and has_images:
        raise ValueError(
            f"batch_size is how many samples to draw where no image is given, got {batch_size} and an image: leave it "
            "out; all of a list of images are edited, images_per_pass at a time"
        )
    return check_count("batch_size", batch_size), check_count("images_per_pass", images_per_pass)


def _draw_seeds(generator: Generators) -> int | list[int]:
    """The seed of the boosting noise: 0, or drawn; one an image from one generator an image."""
    if generator is None:
        return 0
    if isinstance(generator, torch.Generator):
        return int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    return [_draw_seeds(one) for one in generator]  # type: ignore[misc]


def _wrap(images: PipelineOutput, return_dict: bool) -> ImagePipelineOutput | tuple[PipelineOutput]:
    return ImagePipelineOutput(images=images) if return_dict else (images,)
