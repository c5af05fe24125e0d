"""What an edit leaves on disk: pictures of every image, a grid, and every number; goes on where it was stopped."""

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from asyrp_lit.data.encoded import printable
from asyrp_lit.data.images import METRICS, PICTURES, RESULTS
from asyrp_lit.data.latents import from_uint8
from asyrp_lit.files import write_atomically
from asyrp_lit.plots.animate import save_animation
from asyrp_lit.plots.grid import draw_grid, tile, to_pixels
from asyrp_lit.plots.matrix import draw_matrix
from asyrp_lit.plots.save import save_figure
from asyrp_lit.shapes import Edits, Images
from asyrp_lit.stages.device import get_precision, pick_device
from asyrp_lit.stages.edit_directions import NamedDirection
from asyrp_lit.stages.edit_images import Latents
from asyrp_lit.stages.edit_judge import Verdicts
from asyrp_lit.stages.guard import write_json
from asyrp_lit.stages.settings import FREE, list_differences, name_differences

log = logging.getLogger(__name__)

#: Settings that change nothing of an image's results, but for rounding, or whose outcome is compared in their place.
_FREE_SETTINGS = (
    *(*FREE, "out", "show", "images", "n", "on_bad_image", "channels_last", "compile"),
    *("data", "latents", "method", "interval", "trainer", "callbacks", "objective", "judged"),
    *("direction", "average_images", "model.build", "model.weights", "model.max_eps_error"),
)
_FREE = ("device", *(f"settings.{name}" for name in _FREE_SETTINGS))
#: What two keys of one escaped name differ in: ``/`` or ``__``, and how many digits an escape has.
_SHARED = re.compile(r"__|_/|/_|[^\w\x00-\xff]")
#: How every PNG ends.
_PNG_END = b"IEND\xaeB`\x82"
#: Bytes of an escaped key; a file name may have 255, and some are for the hash and for what is written around it.
_LONGEST = 200


def folder_name(key: str) -> str:
    """A stable folder name for an image, its own: its key with everything that file systems dislike escaped.

    Of keys that could share that name, and of long ones, it ends in ``~``, which no other has, and a hash of the key.
    """
    name = re.sub(r"[^\w.,=+ -]", lambda found: f"%{ord(found[0]):02x}", key.replace("/", "__"))
    if not _SHARED.search(key) and len(name.encode()) <= _LONGEST:
        return name
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16]
    return f"{name.encode()[:_LONGEST].decode(errors='ignore')}~{digest}"


class Results:
    """The output folder of an edit.

    ``images/KEY/`` has the pictures of an image and, written last, its ``metrics.json``: an image that has it is done.

    Args:
        cfg: of the stage.
        folder: where to write.
        directions: what edits.
        columns: names of the pictures of an image: reconstruction, then each combination of strengths.
        latents: the images.

    Raises:
        ValueError: the folder has the results of other settings.
    """

    def __init__(
        self,
        cfg: DictConfig,
        folder: Path,
        directions: Sequence[NamedDirection],
        columns: Sequence[str],
        latents: Latents,
    ) -> None:
        self.cfg = cfg
        self.folder = folder
        self.columns = list(columns)
        self.latents = latents
        self.keys = latents.store.item_keys[: latents.num_images]
        self.title = " + ".join(
            f"{d.name}: {d.info.src_text} → {d.info.trg_text}" if d.info.trg_text else d.name for d in directions
        )
        self.about = self._describe(directions)
        self._claim_folder()

    def _describe(self, directions: Sequence[NamedDirection]) -> dict[str, Any]:
        settings = OmegaConf.to_container(self.cfg, resolve=True)
        assert isinstance(settings, dict)
        mask, key = self.cfg.where, self.latents.store.key
        return {
            "settings": settings | {"num_steps": self.cfg.method.num_steps, "t_0": self.cfg.method.t_0},
            "base_model": key.base_model,
            "base_fingerprint": key.base_fingerprint,
            "clip": self.cfg.clip.name,
            "device": str(pick_device(self.cfg)),
            "precision": {"latents": key.precision, "edit": get_precision(self.cfg)},
            "mask_sha256": mask and hashlib.sha256(Path(mask).expanduser().read_bytes()).hexdigest(),
            "directions": [
                {
                    "name": d.name,
                    "file": str(d.path),
                    "sha256": d.sha256,
                    "attribute": d.info.attribute,
                    "texts": [d.info.src_text, d.info.trg_text],
                    "interval": [d.info.t_start, d.info.t_edit, d.info.t_boost],
                }
                for d in directions
            ],
        }

    def _claim_folder(self) -> None:
        path = self.folder / RESULTS
        if path.is_file():
            try:
                kept = json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path} is damaged ({error}): choose another folder with out=") from error
            if not isinstance(kept, dict) or not {"settings", "directions", "base_fingerprint"} <= kept.keys():
                raise ValueError(f"{path} is of another program: choose another folder with out=")
            if differences := _list_differences(kept, self.about):
                raise ValueError(
                    f"{self.folder} has the pictures of other settings ({name_differences(differences)}): "
                    "choose another folder with out="
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, self.about)

    def place(self, key: str) -> Path:
        """The folder of an image."""
        return self.folder / PICTURES / folder_name(key)

    def find_todo(self) -> list[int]:
        """Places in the store of the images without results.

        Raises:
            ValueError: the folder has the results of another image of the same name.
        """
        return [i for i, key in enumerate(self.keys) if not self._has_results(i, key)]

    def _has_results(self, index: int, key: str) -> bool:
        path = self.place(key) / METRICS
        if not path.is_file():
            return False
        try:
            kept = json.loads(path.read_text())
            known, columns = kept.get("fingerprint"), kept["columns"]  # earlier versions wrote no fingerprint
            if lacking := [column for column in self.columns if not isinstance(columns[column], dict)]:
                raise ValueError(f"nothing of {', '.join(lacking)}")
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            log.warning("%s is damaged (%s): the image is edited again", path, error)
            return False
        if known not in (None, self.latents.fingerprint(self.latents.store[index])):
            raise ValueError(
                f"{path.parent} has the pictures of another image named {key}: "
                "choose another folder with out=, or delete that one to have them made anew"
            )
        wanted = [f"{file_name(column)}.png" for column in ("source", *self.columns)]
        if len(wanted) > 2:
            wanted.append("strip.png")
        if self.cfg.animate:
            wanted.append(f"animation.{self.cfg.animate}")
        if missing := [name for name in wanted if not _is_whole(path.parent / name)]:
            log.warning("%s lacks %s: the image is edited again", path.parent, ", ".join(missing))
        return not missing

    def keep(
        self, key: str, fingerprint: str, columns: dict[str, Images], verdicts: Verdicts, loop: Edits | None
    ) -> None:
        """Write everything of one image: pictures (1, 3, S, S) by column with the source first, and its animation."""
        folder = self.place(key)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = {name: to_pixels(image)[0] for name, image in columns.items()}
        for name, picture in pixels.items():
            _write_png(folder / f"{file_name(name)}.png", Image.fromarray(picture))
        if len(pixels) > 2:
            strip = tile(to_pixels(torch.cat(list(columns.values()))), len(pixels), 1)
            _write_png(folder / "strip.png", Image.fromarray(strip))
        if loop is not None:
            save_animation(folder / f"animation.{self.cfg.animate}", to_pixels(loop), self.cfg.zoom)
        write_json(folder / METRICS, {"key": key, "fingerprint": fingerprint, "columns": verdicts})

    def finish(self, axes: tuple[Sequence[str], Sequence[str]] | None) -> dict[str, dict[str, float]]:
        """Write ``edit.json`` and the grids of the first images; returns the means over images by column.

        Args:
            axes: names of the strengths of two directions, for a square grid of each image; ``None`` for one direction.
        """
        keys = self.keys
        verdicts: dict[str, Verdicts] = {
            key: json.loads((self.place(key) / METRICS).read_text())["columns"] for key in keys
        }
        means = {column: _mean([verdict[column] for verdict in verdicts.values()]) for column in self.columns}
        write_json(self.folder / "edit.json", {**self.about, "means": means, "images": verdicts})
        shown = keys[: self.cfg.show]
        names = ["source", *self.columns]
        if axes is None:
            cells = {name: self._read(shown, name) for name in names}
            figure = draw_grid(cells, self.title, rows=[printable(key) for key in shown])
            save_figure(figure, self.folder / "grid.png")
        else:
            for key in shown:
                self._draw_square(key, axes)
        return means

    def _draw_square(self, key: str, axes: tuple[Sequence[str], Sequence[str]]) -> None:
        """Strengths of the first direction down, of the second across, beside source and reconstruction."""
        down, across = axes
        edits = torch.cat([self._read([key], column) for column in self.columns[1:]])
        aside = {name: self._read([key], name)[0] for name in ("source", self.columns[0])}
        figure = draw_matrix(edits.unflatten(0, (len(down), len(across))), down, across, self.title, aside=aside)  # type: ignore[no-untyped-call]
        save_figure(figure, self.folder / f"grid-{folder_name(key)}.png")

    def _read(self, keys: Sequence[str], column: str) -> Images:
        paths = [self.place(key) / f"{file_name(column)}.png" for key in keys]
        return from_uint8(torch.stack([_read_png(path) for path in paths]))


def _list_differences(kept: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What ``wanted`` would make otherwise; what an earlier version did not keep is not compared."""
    there, asked = (
        OmegaConf.create({**about, "directions": [f"{d['name']} {d['sha256'][:12]}" for d in about["directions"]]})
        for about in (kept, wanted)
    )
    complete = cast(DictConfig, OmegaConf.merge(asked, there))
    free = [*_FREE]
    if "mask_sha256" in kept:
        free.append("settings.where")
    if complete.settings.animate is None and asked.settings.animate is None:
        free += ["settings.zoom", "settings.animate_frames"]
    return list_differences(complete, asked, free)


def file_name(column: str) -> str:
    """The file of a column: ``strength 0.5`` is ``strength_0.5``; escaped as folders are."""
    return folder_name(column.replace(", ", "-").replace(" ", "_"))


def _write_png(path: Path, image: Image.Image) -> None:
    buffer = BytesIO()
    image.save(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def _is_whole(path: Path) -> bool:
    """Whether a picture is there, and to its end if it is a PNG."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(-min(len(_PNG_END), path.stat().st_size), os.SEEK_END)
        return path.suffix != ".png" or file.read() == _PNG_END


def _read_png(path: Path) -> torch.Tensor:
    try:
        with Image.open(path) as image:
            pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
            return pixels.view(image.height, image.width, 3).permute(2, 0, 1)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and the same command makes it again") from error


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the images that have it: one of another start may lack CLIP's."""
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [value for row in rows if (value := row.get(name)) is not None and not math.isnan(value)]
        found[name] = sum(values) / len(values) if values else math.nan
    return found
