"""Asyrp as a pipeline of diffusers: base model and directions in one folder."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput, ModelMixin, SchedulerMixin, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor

from asyrp_lit.editing.plan import make_plan
from asyrp_lit.editing.strengths import combine_strengths, spread_strengths
from asyrp_lit.hspace.direction import IMAGE_CHANNELS, read_direction_info
from asyrp_lit.hspace.embedded import find_direction, list_embedded
from asyrp_lit.library.edit import count_batches, edit
from asyrp_lit.library.folder import check_name, find_folder, list_direction_files, write_folder
from asyrp_lit.library.images import to_tensor
from asyrp_lit.library.latents import BATCH_SIZE, NUM_STEPS, Latents, invert, reconstruct
from asyrp_lit.library.models import ModelDirection, load_direction
from asyrp_lit.library.pixels import PipelineInput, PipelineOutput, check_output_type, read_pixels, show_pixels
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.models.registry import SCHEDULE, check_schedule, load_embedded, load_folder

#: Random numbers of a call, as in diffusers: one generator, or one an image.
Generators = torch.Generator | Sequence[torch.Generator] | None
#: What the network's passes may be computed in.
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class AsyrpPipeline(DiffusionPipeline):  # type: ignore[misc]
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

    def __init__(self, unet: ModelMixin, scheduler: SchedulerMixin, base_model: str = "custom") -> None:
        super().__init__()
        if not isinstance(unet, UNet2DModel):
            raise ValueError(f"unet must be an unconditional UNet2DModel, got a {type(unet).__name__}")
        if unet.dtype != torch.float32:
            raise ValueError(
                f"the weights of unet must be float32, got {unet.dtype}: load them as they are saved, without dtype=, "
                f"and then call pipe.to({unet.dtype})"
            )
        check_schedule(dict.fromkeys(SCHEDULE, "unknown") | _describe(scheduler), type(scheduler).__name__)
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(base_model=base_model)
        self._model = HSpaceUNet(unet, base_model)
        self._directions: dict[str, ModelDirection] | None = None
        self._passes_dtype = torch.float32

    @classmethod
    def from_model(cls, model: HSpaceUNet) -> "AsyrpPipeline":
        """A pipeline without directions around a base model, such as ``load_model`` gives."""
        return cls(model.unet, DDIMScheduler(clip_sample=False, timestep_spacing="linspace"), model.name)

    @classmethod
    def from_embedded(cls, name: str = "ddpmpp_avatars") -> "AsyrpPipeline":
        """An embedded base model with all embedded directions for it."""
        pipe = cls.from_model(load_embedded(name))
        fingerprint = pipe.model.fingerprint()
        for direction in list_embedded():
            if read_direction_info(find_direction(direction)).base_fingerprint == fingerprint:
                pipe.add_direction(direction, direction)
        return pipe

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> "AsyrpPipeline":
        """A pipeline from a folder of ``save_pretrained``, or of any unconditional pipeline, here or on the hub.

        The network is loaded strictly and in float32; ``dtype`` is as in ``to``. Other arguments are diffusers'.

        Raises:
            FileNotFoundError, ValueError: the folder lacks something, or a direction is for other weights.
        """
        dtypes = [kwargs.pop(key, None) for key in ("dtype", "torch_dtype")]
        options = [kwargs.pop(key, default) for key, default in (("revision", None), ("local_files_only", False))]
        folder = find_folder(os.fspath(pretrained_model_name_or_path), *options)
        base_model = kwargs.pop("base_model", None) or cls.load_config(folder).get("base_model", folder.name)
        unet = load_folder(base_model, folder).unet
        if "device_map" not in kwargs:
            kwargs.setdefault(
                "low_cpu_mem_usage", False
            )  # which would need accelerate, and only the network has weights
        pipe: AsyrpPipeline = super().from_pretrained(str(folder), unet=unet, base_model=base_model, **kwargs)
        pipe.directions  # noqa: B018 - those that do not fit are found now
        return pipe.to(dtype=next((dtype for dtype in dtypes if dtype is not None), None))

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write base model and directions into one folder, as safetensors; arguments are diffusers'.

        Raises:
            FileExistsError: the folder has other directions, which would be loaded too.
            ValueError: ``safe_serialization=False``.
        """
        if not kwargs.pop("safe_serialization", True):
            raise ValueError("a pipeline is saved as safetensors only: leave safe_serialization out")
        write_folder(Path(save_directory), self.directions)
        super().save_pretrained(os.fspath(save_directory), **kwargs)

    @property
    def model(self) -> HSpaceUNet:
        """The base model, as the functions of ``asyrp_lit`` take it."""
        if self._model.unet is not self.unet:
            self._model = HSpaceUNet(self.unet, self.config.base_model)
        return self._model

    @property
    def directions(self) -> Mapping[str, ModelDirection]:
        """The directions by name; at first those of the folder that the pipeline was loaded from."""
        if self._directions is None:
            files = list_direction_files(Path(self.name_or_path)) if self.name_or_path else {}
            self._directions = {name: load_direction(path, self.model) for name, path in files.items()}
        return MappingProxyType(self._directions)

    def add_direction(self, direction: ModelDirection | str | Path, name: str | None = None) -> None:
        """Add a direction, one of the same name is replaced.

        Args:
            direction: from ``load_direction``, a direction file, or the name of an embedded one.
            name: what calls shall name it; ``None`` for that of its attribute.

        Raises:
            FileNotFoundError: there is no such direction.
            ValueError: it is for another base model, or the name cannot be that of a file.
        """
        found = direction if isinstance(direction, ModelDirection) else load_direction(direction, self.model)
        placed, info = found.place_on(self.model, self.device)
        kept = {**self.directions, check_name(name or found.name): ModelDirection(placed, info, self.model)}
        self._directions = kept

    def remove_direction(self, name: str) -> None:
        """Forget a direction.

        Raises:
            ValueError: there is none of that name.
        """
        self._find(name)
        self._directions = {other: found for other, found in self.directions.items() if other != name}

    def to(self, *args: Any, **kwargs: Any) -> "AsyrpPipeline":
        """Move to a device; a dtype becomes that of the network's passes, and the weights stay in float32.

        Raises:
            ValueError: the dtype is not float32, bfloat16 or float16.
        """
        dtypes = [value for value in (*args, kwargs.pop("dtype", None)) if isinstance(value, torch.dtype)]
        for dtype in dtypes:
            if dtype not in _DTYPES:
                raise ValueError(f"dtype must be one of {', '.join(map(str, _DTYPES))}, got {dtype}")
            self._passes_dtype = dtype
        super().to(*(value for value in args if not isinstance(value, torch.dtype)), **kwargs)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """What the network's passes are computed in."""
        return self._passes_dtype

    @torch.no_grad()
    def __call__(
        self,
        image: PipelineInput | Latents | None = None,
        direction: str | Sequence[str] | None = None,
        strength: object = 1.0,
        num_inference_steps: int | None = None,
        batch_size: int = 1,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
        images_per_pass: int = BATCH_SIZE,
        **options: Any,
    ) -> ImagePipelineOutput | tuple[PipelineOutput]:
        """Edit images; without images edit the model's own samples, and without a direction too just sample.

        Args:
            image: one or several PIL images or paths, a tensor (B, 3, S, S) or an array (B, S, S, 3) in [0, 1], or what
                ``invert`` returned. ``None`` for samples.
            direction: one name or several of ``directions``; several are added, over the root of their number.
            strength: as for ``asyrp_lit.edit``; lists give an edit for every combination, all images of the first
                combination before those of the second.
            num_inference_steps: of inversion and generation; ``None`` for those of the training, or 40 for samples.
            batch_size: how many samples, where no image is given.
            generator: of the samples and the boosting noise, one or one an image; ``None``: samples differ from call to
                call, and the boosting noise follows from each image alone.
            output_type: ``pil``, ``np`` or ``pt``, the last two in [0, 1].
            return_dict: whether to return an ``ImagePipelineOutput``, or a tuple.
            images_per_pass: about; results do not depend on it.
            **options: of ``make_plan``, such as ``t_edit`` and ``t_boost``.

        Raises:
            FileNotFoundError, TypeError, ValueError: an argument is not possible; the message says what is.
        """
        kind = check_output_type(output_type)
        chosen = [self._find(name) for name in ([direction] if isinstance(direction, str) else direction or ())]
        if image is not None and not chosen:
            raise ValueError(f"direction must name one of {self._list_names()}; pipe.reconstruct takes none")
        strengths = combine_strengths(spread_strengths(strength, max(1, len(chosen))))
        steps = NUM_STEPS if num_inference_steps is None else num_inference_steps
        if chosen:  # what cannot be edited is found before any work
            loaded = [found.place_on(self.model, self.device) for found in chosen]
            steps = len(make_plan(loaded, num_inference_steps, **options).grid)
        if image is None:
            latents = self._draw(batch_size, steps, generator)
        elif isinstance(image, Latents):
            latents = image
        else:
            latents = self.invert(image, steps, images_per_pass)
        if not chosen:
            return self.reconstruct(latents, None, output_type, return_dict, images_per_pass)
        seeds = _draw_seeds(generator)
        batches = count_batches(len(latents), len(strengths), images_per_pass)
        with self._compute(batches * latents.num_steps):
            edits = edit(self.model, latents, chosen, strength, num_inference_steps, seeds, images_per_pass, **options)
        return _wrap(show_pixels(edits, kind), return_dict)

    @torch.no_grad()
    def invert(
        self, image: PipelineInput, num_inference_steps: int = NUM_STEPS, images_per_pass: int = BATCH_SIZE
    ) -> Latents:
        """x_T of images, to be edited more than once without another inversion; arguments as for a call."""
        x_0 = to_tensor(read_pixels(image), self.model.image_size)
        with self._compute(ceil(len(x_0) / images_per_pass) * (num_inference_steps - 1)):
            return invert(self.model, x_0, num_inference_steps, images_per_pass)

    @torch.no_grad()
    def reconstruct(
        self,
        image: PipelineInput | Latents,
        num_inference_steps: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        images_per_pass: int = BATCH_SIZE,
    ) -> ImagePipelineOutput | tuple[PipelineOutput]:
        """Plain inversion and back, the most that an edit can keep of an image; arguments as for a call."""
        kind = check_output_type(output_type)
        steps = NUM_STEPS if num_inference_steps is None else num_inference_steps
        latents = image if isinstance(image, Latents) else self.invert(image, steps, images_per_pass)
        with self._compute(ceil(len(latents) / images_per_pass) * latents.num_steps):
            images = reconstruct(self.model, latents, num_inference_steps, images_per_pass)
        return _wrap(show_pixels(images, kind), return_dict)

    def _find(self, name: str) -> ModelDirection:
        if name not in self.directions:
            raise ValueError(
                f"this pipeline has no direction {name!r}, it has {self._list_names()}; add_direction adds a file"
            )
        return self.directions[name]

    def _list_names(self) -> str:
        return ", ".join(self.directions) or "none"

    def _draw(self, num_images: int, num_steps: int, generator: Generators) -> Latents:
        size = self.model.image_size
        x_T = randn_tensor((num_images, IMAGE_CHANNELS, size, size), generator, self.device, torch.float32)
        return Latents(x_T, num_steps)

    @contextmanager
    def _compute(self, passes: int) -> Iterator[None]:
        """Passes of the network in the pipeline's precision, counted by diffusers' progress bar."""
        lower = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with self.progress_bar(total=passes) as bar, lower:
            counter = self.unet.conv_in.register_forward_hook(lambda *_: bar.update() and None)
            try:
                yield
            finally:
                counter.remove()


def _describe(scheduler: SchedulerMixin) -> dict[str, Any]:
    """The settings of a scheduler's that the method asks for."""
    return {key: value for key, value in scheduler.config.items() if key in SCHEDULE}


def _draw_seeds(generator: Generators) -> int | list[int]:
    """The seed of the boosting noise: 0, or drawn; one an image from one generator an image."""
    if generator is None:
        return 0
    if isinstance(generator, torch.Generator):
        return int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    return [_draw_seeds(one) for one in generator]  # type: ignore[misc]


def _wrap(images: PipelineOutput, return_dict: bool) -> ImagePipelineOutput | tuple[PipelineOutput]:
    return ImagePipelineOutput(images=images) if return_dict else (images,)
