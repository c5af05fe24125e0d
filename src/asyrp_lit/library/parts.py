"""What a pipeline of diffusers for Asyrp is made of: one folder with a base model and its directions."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ModelMixin, SchedulerMixin, UNet2DModel

from asyrp_lit.hspace.direction import read_direction_info
from asyrp_lit.hspace.embedded import find_direction, list_embedded
from asyrp_lit.library.folder import check_name, find_folder, list_direction_files, write_folder
from asyrp_lit.library.models import ModelDirection, load_direction
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.models.registry import SCHEDULE, check_schedule, load_embedded, load_folder

#: What the network's passes may be computed in.
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: Whichever pipeline it is called on; beartype does not know typing.Self here.
Parts = TypeVar("Parts", bound="PipelineParts")


class PipelineParts(DiffusionPipeline):  # type: ignore[misc]
    """Base model, schedule and directions: how they are put together, loaded, saved and moved.

    Arguments and errors are those of ``AsyrpPipeline``.
    """

    # UNet2DModel is what from_pipe takes over, by the annotation; another ModelMixin gets the message below.
    def __init__(self, unet: UNet2DModel | ModelMixin, scheduler: SchedulerMixin, base_model: str = "custom") -> None:
        super().__init__()
        if not isinstance(unet, UNet2DModel):
            raise ValueError(f"unet must be an unconditional UNet2DModel, got a {type(unet).__name__}")
        if unet.dtype != torch.float32:
            raise ValueError(
                f"the weights of unet must be float32, got {unet.dtype}: load them as they are saved, without dtype=, "
                f"and then call pipe.to({unet.dtype})"
            )
        check_schedule(_describe(scheduler), type(scheduler).__name__)
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(base_model=base_model)
        self._model = HSpaceUNet(unet, base_model).to(memory_format=torch.channels_last)
        self._directions: dict[str, ModelDirection] | None = None
        self._passes_dtype = torch.float32

    @classmethod
    def from_model(cls: type[Parts], model: HSpaceUNet) -> Parts:
        """A pipeline without directions around a base model, such as ``load_model`` gives."""
        return cls(model.unet, DDIMScheduler(clip_sample=False, timestep_spacing="linspace"), model.name)

    @classmethod
    def from_embedded(cls: type[Parts], name: str = "ddpmpp_avatars") -> Parts:
        """An embedded base model with all embedded directions for it."""
        pipe = cls.from_model(load_embedded(name))
        fingerprint = pipe.model.fingerprint()
        for direction in list_embedded():
            if read_direction_info(find_direction(direction)).base_fingerprint == fingerprint:
                pipe.add_direction(direction, direction)
        return pipe

    @classmethod
    def from_pretrained(
        cls: type[Parts], pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Parts:
        """A pipeline from a folder of ``save_pretrained``, or of any unconditional pipeline, here or on the hub.

        The network is loaded strictly and in float32, from the files of ``variant`` where one is named; ``dtype`` is as
        in ``to``. Other arguments are diffusers'.

        Raises:
            FileNotFoundError, ValueError: the folder lacks something, or a direction is for other weights.
        """
        dtypes = [kwargs.pop(key, None) for key in ("dtype", "torch_dtype")]
        options = [kwargs.pop(key, default) for key, default in (("revision", None), ("local_files_only", False))]
        variant = kwargs.pop("variant", None)
        folder = find_folder(os.fspath(pretrained_model_name_or_path), *options)
        base_model = kwargs.pop("base_model", None) or cls.load_config(folder).get("base_model", folder.name)
        unet = kwargs.pop("unet", None) or load_folder(base_model, folder, variant).unet
        if "device_map" not in kwargs:
            kwargs.setdefault(
                "low_cpu_mem_usage", False
            )  # which would need accelerate, and only the network has weights
        pipe: Parts = super().from_pretrained(str(folder), unet=unet, base_model=base_model, **kwargs)
        pipe.directions  # noqa: B018 - those that do not fit are found now
        return pipe.to(dtype=next((dtype for dtype in dtypes if dtype is not None), None))

    @classmethod
    def from_pipe(cls: type[Parts], pipeline: DiffusionPipeline, **kwargs: Any) -> Parts:
        """A pipeline of the parts of another, its directions too; arguments are diffusers'."""
        pipe: Parts = super().from_pipe(pipeline, **kwargs)
        if isinstance(pipeline, PipelineParts):
            pipe._directions = dict(pipeline.directions)
        return pipe

    def register_to_config(self, **kwargs: Any) -> None:
        """As diffusers; a folder by its whole path, for its directions are found later, maybe from another folder."""
        place = kwargs.get("_name_or_path")
        if place and Path(place).is_dir():
            kwargs["_name_or_path"] = str(Path(place).resolve())
        super().register_to_config(**kwargs)

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
            self._model = HSpaceUNet(self.unet, self.config.base_model).to(memory_format=torch.channels_last)
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
        self.get_direction(name)
        self._directions = {other: found for other, found in self.directions.items() if other != name}

    def to(self: Parts, *args: Any, **kwargs: Any) -> Parts:
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

    def get_direction(self, name: str) -> ModelDirection:
        """A direction of this pipeline.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.directions:
            raise ValueError(
                f"this pipeline has no direction {name!r}, it has {self.list_names()}; add_direction adds a file"
            )
        return self.directions[name]

    def list_names(self) -> str:
        """Names of the directions, for messages."""
        return ", ".join(self.directions) or "none"

    @contextmanager
    def compute(self, passes: int) -> Iterator[None]:
        """Passes of the network in the pipeline's precision, counted by diffusers' progress bar."""
        lower = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with self.progress_bar(total=passes) as bar, lower:
            counter = self.unet.conv_in.register_forward_hook(lambda *_: bar.update(bar.n < passes) and None)
            try:
                yield
            finally:
                counter.remove()


def _describe(scheduler: SchedulerMixin) -> dict[str, Any]:
    """What a scheduler says of its schedule; one that has no betas does not get by in silence."""
    needed = {key: "unknown" for key, value in SCHEDULE.items() if value}
    return needed | {key: value for key, value in scheduler.config.items() if key in SCHEDULE}
