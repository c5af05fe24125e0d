"""What every kind of direction reaches on held-out portraits: a table, curves over strength, two attributes at once.

    python benchmarks/editing_table.py [work=FOLDER] [directions=FOLDER] [attributes=[sad,bald]] [kinds=[f_t,mean]] ...

f_t is read; what other kinds need is trained by train.py and discover.py in the interval of f_t, and mean and global
are averages of f_t's delta_h. Everything is kept in ``work``: trained directions, a JSON and the edits of every row. A
rerun does only what is missing, and writes table.md, curves.png and a sheet of pictures for each attribute anew.
"""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor

import asyrp_lit
from asyrp_lit import Latents, ModelDirection
from asyrp_lit.data.latents import LatentStore, from_uint8, to_uint8
from asyrp_lit.data.portraits import PortraitSource
from asyrp_lit.files import write_atomically
from asyrp_lit.hspace.embedded import find_direction
from asyrp_lit.inversion.fill import fill_store, make_store_key
from asyrp_lit.losses.clip import choose_templates, load_clip
from asyrp_lit.losses.directional import compute_text_direction
from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.metrics.monotone import measure_monotony
from asyrp_lit.metrics.oracle import load_oracle
from asyrp_lit.metrics.panel import Judges
from asyrp_lit.metrics.per_image import judge_edit
from asyrp_lit.plots.curves import draw_strength_curves
from asyrp_lit.plots.grid import draw_grid
from asyrp_lit.plots.save import save_figure

OPTIONS = """
work: outputs/benchmarks/editing_table
latents: null # folder of latent stores; null: latents in work
directions: null # folder of ATTRIBUTE.safetensors with f_t; null: those of the package
attributes: [smiling, sad, glasses, beard, bald, blond_hair]
kinds: [reconstruction, f_t, mean, global, symmetric, labels_mean, labels_svm, delta_h, eps_space]
pairs: [smiling+glasses, beard+glasses, sad+blond_hair] # of f_t, both at strength 1
curves: [f_t] # kinds that are judged over strengths
strengths: [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]
images: 64 # test portraits without the attribute
curve_images: 16 # the first of them, and as many that have the attribute
average_images: 20 # train portraits behind mean and global
train_images: 96
trainer: cpu_bf16 # that trains; cpu where the processor has no bfloat16
label_images: 256 # train portraits among which 32 of each class are looked for
delta_h: [method=free_per_timestep, method.loss.w_keep=0.5] # overrides of train.py
eps_space: [method=eps_space, method.passes=2, method.loss.w_keep=0.5, method.optimizer.lr=5e-5] # 5e-4 ruins it
"""
ROOT = Path(__file__).resolve().parents[1]
#: Kinds that are judged from the file of f_t; the others are trained.
OF_F_T = ("reconstruction", "f_t", "mean", "global", "symmetric")
TRAINED = ("latents.precision=32-true", "callbacks.preview_images=4", "callbacks.strengths=[1]")
METRICS = ("success", "oracle_score", "preservation", "edit_lpips", "directional_cosine")
#: Metric -> a number for each image.
Verdicts = dict[str, list[float]]


class Row(NamedTuple):
    """Edits at each strength, (N, 3, S, S) in [-1, 1], and their verdicts."""

    edits: list[Tensor]
    verdicts: list[Verdicts]


def digest(*about: object) -> str:
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:10]


def mean(values: Sequence[float]) -> float:
    return float(torch.tensor(values).nanmean())


class Bench:
    """Directions, portraits and judged rows of one work folder."""

    def __init__(self, options: DictConfig) -> None:
        self.options, self.work = options, Path(options.work).resolve()
        self.latents = Path(options.latents or self.work / "latents").resolve()
        self.model = asyrp_lit.load_model("ddpmpp_avatars")
        self.judges = Judges(load_clip(), load_lpips(), load_oracle())

    def run_script(self, script: str, name: str, overrides: Sequence[str], result: str) -> Path:
        """A file that a script leaves in its run folder; run, or resumed, where it is not there."""
        folder = self.work / "train" / f"{name}-{digest(script, self.options.trainer, *overrides)}"
        if not (folder / result).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            places = [f"hydra.run.dir={folder}", f"paths.latents={self.latents}"]
            places += [f"resume={folder}"] if (folder / "last.ckpt").is_file() else []
            start = time.perf_counter()
            with (folder / "output.log").open("a") as log:
                command = [sys.executable, script, f"trainer={self.options.trainer}", *TRAINED, *overrides, *places]
                code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log).returncode
            if code:
                sys.exit(f"{script} failed for {name}: see {folder / 'output.log'}")
            print(f"{name}: trained in {time.perf_counter() - start:.0f} s", flush=True)
        return folder / result

    def find(self, attribute: str, kind: str) -> Path:
        """The direction file that a kind begins with, trained where it is missing."""
        if kind in OF_F_T:
            folder = self.options.directions
            return find_direction(attribute if folder is None else Path(folder) / f"{attribute}.safetensors")
        info = self.load(attribute, "f_t").info
        overrides = ["interval=fixed", *(f"interval.{t}={getattr(info, t)}" for t in ("t_edit", "t_boost", "t_start"))]
        if not kind.startswith("labels_"):
            overrides += [f"attr={attribute}", f"data.train.num_images={self.options.train_images}"]
            overrides += ["data.val.num_images=8", *self.options[kind]]
            return self.run_script("train.py", f"{attribute}-{kind}", overrides, f"{attribute}.safetensors")
        ((label, (positive, *_)),) = info.labels.items()
        overrides += ["method=labels", f"method.label={label}", f"method.positive={positive}"]
        overrides += [f"method.negative={info.where[label][0]}", f"data.train.num_images={self.options.label_images}"]
        overrides += ["sheet_images=1", "judged_images=1"]
        result = f"{label}_{positive}_{kind.removeprefix('labels_')}.safetensors"
        return self.run_script("discover.py", f"{attribute}-labels", overrides, result)

    @cache  # noqa: B019 - one bench a process
    def load(self, attribute: str, kind: str) -> ModelDirection:
        """The direction of a kind; mean and global are averaged here."""
        if kind not in ("mean", "global"):
            return asyrp_lit.load_direction(self.find(attribute, kind), self.model)
        f_t = self.load(attribute, "f_t")
        source = PortraitSource("train", self.options.average_images, self.model.image_size, f_t.info.where)
        return asyrp_lit.average(self.model, torch.stack([source[i].x_0 for i in range(len(source))]), f_t, kind)

    @cache  # noqa: B019
    def open_portraits(self, attributes: tuple[str, ...], having: bool = False) -> tuple[str, Tensor, Latents]:
        """Test portraits without any of the attributes, or with all: their fingerprint, x_0 in [-1, 1] and latents."""
        infos = [self.load(attribute, "f_t").info for attribute in attributes]
        conditions = [info.labels if having else info.where for info in infos]
        where = {label: classes for condition in conditions for label, classes in (condition or {}).items()}
        count = self.options.curve_images if having else self.options.images
        source = PortraitSource("test", count, self.model.image_size, where)
        key = make_store_key(self.model, source, 40, 999)
        store = LatentStore.create(self.latents, key, source.keys, 32, len(source[0].labels))
        fill_store(self.model, source, store, 16)
        items = [store[i] for i in range(len(store))]
        contents = tuple(item["x_0"].numpy().tobytes() for item in items)
        latents = Latents(torch.stack([item["x_T"] for item in items]), contents=contents)
        return source.fingerprint(), from_uint8(torch.stack([item["x_0"] for item in items])), latents

    def judge(self, attributes: Sequence[str], x_0: Tensor, edits: Tensor) -> Verdicts:
        """Towards all of the attributes."""
        infos = {attribute: self.load(attribute, "f_t").info for attribute in attributes}
        templates, clip = choose_templates("imagenet"), self.judges.clip
        texts = {name: compute_text_direction(clip, i.src_text, i.trg_text, templates) for name, i in infos.items()}
        found = judge_edit(self.judges, x_0, edits, texts, {name: info.labels for name, info in infos.items()})
        return {metric: values.tolist() for metric, values in found.items()}

    def edit(
        self,
        pair: str,
        kind: str,
        count: int,
        strengths: Sequence[float] = (1.0,),
        having: bool = False,
        **options: Any,
    ) -> Row:
        """The first portraits at each strength of an attribute, or at one of ``A+B``; kept, and made where missing."""
        attributes = tuple(pair.split("+"))
        fingerprint, x_0, latents = self.open_portraits(attributes, having)
        options |= {"symmetric": {"process": "symmetric"}, "reconstruction": {"t_boost": 0}}.get(kind, {})
        plain = kind == "reconstruction"  # with a strength of 0 it depends on no direction
        strengths, files = ([0.0], []) if plain else (list(strengths), [self.find(name, kind) for name in attributes])
        about = [kind, *(hashlib.sha256(file.read_bytes()).hexdigest() for file in files), fingerprint, count]
        about += [strengths, options, self.options.average_images if kind in ("mean", "global") else None]
        path = self.work / "rows" / f"{pair}-{kind}-{digest(about)}.json"
        if not path.is_file():
            start = time.perf_counter()
            some = Latents(latents.x_T[:count], contents=latents.contents[:count])
            found = [self.load(attribute, kind) for attribute in attributes]
            wanted = strengths if len(found) == 1 else strengths[0]
            edits = asyrp_lit.edit(self.model, some, found, strength=wanted, **options).chunk(len(strengths))
            verdicts = [self.judge(attributes, x_0[:count], part) for part in edits]
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"edits": to_uint8(torch.stack(edits))}, path.with_suffix(".safetensors"))
            write_atomically(path, json.dumps({"about": about, "verdicts": verdicts}).encode())
            print(f"{path.stem}: edited and judged in {time.perf_counter() - start:.0f} s", flush=True)
        edits = load_file(path.with_suffix(".safetensors"))["edits"]
        return Row([from_uint8(part) for part in edits], json.loads(path.read_text())["verdicts"])


def write_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    cells = [[cell if isinstance(cell, str) else f"{cell:.2f}" for cell in row] for row in rows]
    lines = [" | ".join(line) for line in (columns, ["---"] * len(columns), *cells)]
    return "\n".join([f"{title}\n", *(f"| {line} |" for line in lines), ""])


def tabulate_kinds(bench: Bench) -> str:
    options, table, sums = bench.options, [], {kind: [] for kind in bench.options.kinds}
    for attribute in options.attributes:
        rows = {kind: bench.edit(attribute, kind, options.images) for kind in options.kinds}
        edits = {kind: row.edits[0] for kind, row in rows.items()}
        success = {kind: torch.tensor(row.verdicts[0]["success"]) for kind, row in rows.items()}
        for kind, row in rows.items():
            numbers = [mean(row.verdicts[0][metric]) for metric in METRICS]
            if "f_t" in rows:
                numbers.append(float(bench.judges.lpips(edits[kind], edits["f_t"]).mean()))
                numbers.append(float((success[kind] == success["f_t"]).float().mean()))
            sums[kind].append(numbers)
            table.append([attribute, kind, *numbers])
        shown = {"source": bench.open_portraits((attribute,))[1]} | edits
        save_figure(draw_grid({k: v[:8] for k, v in shown.items()}, attribute), bench.work / f"sheet-{attribute}.png")
    table += [["all", kind, *torch.tensor(numbers).mean(dim=0).tolist()] for kind, numbers in sums.items()]
    columns = ["attribute", "kind", *METRICS, *(["LPIPS to f_t", "verdict of f_t"] if "f_t" in sums else [])]
    return write_table(f"Strength 1 on {options.images} test portraits without the attribute", columns, table)


def tabulate_pairs(bench: Bench) -> str:
    table = []
    for pair in bench.options.pairs:
        for how, normalise in (("sum", False), ("sum over the root of 2", True)):
            verdicts = bench.edit(pair, "f_t", bench.options.images, normalise=normalise).verdicts[0]
            wanted = ("success", *(f"success/{name}" for name in pair.split("+")), "preservation", "edit_lpips")
            table.append([pair, how, *(mean(verdicts[metric]) for metric in wanted)])
    columns = ("pair", "combined", "both", "first", "second", "preservation", "edit_lpips")
    return write_table(f"Both at strength 1 on {bench.options.images} test portraits with neither", columns, table)


def tabulate_curves(bench: Bench) -> str:
    options, table, curves = bench.options, [], {}
    strengths = list(options.strengths)
    for kind in options.curves:
        for attribute in options.attributes:
            parts = {}
            for having in (False, True):
                verdicts = bench.edit(attribute, kind, options.curve_images, strengths, having).verdicts
                parts["with" if having else "without"] = torch.tensor([row["oracle_score"] for row in verdicts])
            parts["both"] = torch.cat(list(parts.values()), dim=1)
            for portraits, scores in parts.items():
                means = scores.mean(dim=1).tolist()
                table.append([attribute, kind, portraits, *measure_monotony(strengths, scores), *means])
            curves[f"{attribute}, {kind}"] = means
    title = (
        f"Oracle score over strength, {options.curve_images} test portraits without the attribute and as many with it"
    )
    save_figure(draw_strength_curves(strengths, curves, title), bench.work / "curves.png")
    correlations = ("Spearman of images", "of each", "of mean", "largest fall")
    return write_table(title, ("attribute", "kind", "portraits", *correlations, *(f"{s:g}" for s in strengths)), table)


def main() -> None:
    """Fill the work folder and print the tables."""
    options = OmegaConf.create(OPTIONS)
    OmegaConf.set_struct(options, True)
    options.merge_with_dotlist(sys.argv[1:])
    bench = Bench(options)
    parts = {"kinds": tabulate_kinds, "pairs": tabulate_pairs, "curves": tabulate_curves}
    text = "\n".join(tabulate(bench) for part, tabulate in parts.items() if options[part])
    (bench.work / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
