"""Editing at several strengths, shared passes in batches against one picture at a time, as the released code goes.

    python benchmarks/editing.py [images]

Both make the same pictures (checked) in one run on one machine: only the ratios mean something elsewhere.
"""

import sys
import time
from collections.abc import Callable

import torch

from asyrp_lit.data.portraits import PortraitSource
from asyrp_lit.diffusion.schedule import make_alphas_cumprod
from asyrp_lit.editing.plan import Combination, EditPlan, edit_latents, make_plan
from asyrp_lit.hspace.direction import load_direction
from asyrp_lit.hspace.embedded import find_direction
from asyrp_lit.inversion.invert import invert_images
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.models.registry import load_embedded

ROWS: list[Combination] = [None, (-1.0,), (0.5,), (1.0,), (1.5,)]
BATCH = 16


def edit_one_by_one(model: HSpaceUNet, x_T: torch.Tensor, plan: EditPlan) -> torch.Tensor:
    columns = [torch.cat([edit_latents(model, x[None], plan, [row], [0]) for x in x_T]) for row in ROWS]
    return torch.cat(columns)


def edit_together(model: HSpaceUNet, x_T: torch.Tensor, plan: EditPlan) -> torch.Tensor:
    per_batch = max(1, BATCH // len(ROWS))
    batches = [edit_latents(model, x, plan, ROWS, [0] * len(x), BATCH).chunk(len(ROWS)) for x in x_T.split(per_batch)]
    return torch.cat([torch.cat(column) for column in zip(*batches, strict=True)])


def measure(model: HSpaceUNet, work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float, dict[str, float]]:
    model.passes.update(encode=0, decode=0)
    start = time.perf_counter()
    images = work()
    return images, time.perf_counter() - start, dict(model.passes)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    model = load_embedded("ddpmpp_avatars")
    plan = make_plan([load_direction(find_direction("glasses"), model.fingerprint(), model.name)])
    source = PortraitSource("val", count, model.image_size, {"glasses": "no"})
    x_0 = torch.stack([source[i].x_0 for i in range(count)])
    x_T = invert_images(model, x_0, plan.grid, make_alphas_cumprod()).x_T
    alone = measure(model, lambda: edit_one_by_one(model, x_T, plan))
    together = measure(model, lambda: edit_together(model, x_T, plan))
    pictures = count * len(ROWS)
    print(f"{count} images, reconstruction and 4 strengths, {torch.get_num_threads()} threads")
    for name, (_, seconds, passes) in (("one at a time", alone), ("together", together)):
        encodes, decodes = (passes[kind] / pictures for kind in ("encode", "decode"))
        print(f"{name:15}{encodes:8.1f} encodes{decodes:8.1f} decodes{pictures / seconds:8.2f} pictures/s")
    print(f"ratio of time {alone[1] / together[1]:.2f}, of decodes {alone[2]['decode'] / together[2]['decode']:.2f}")
    print(f"largest difference of a pixel {(alone[0] - together[0]).abs().max():.1e}")


if __name__ == "__main__":
    main()
