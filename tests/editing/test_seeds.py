import torch

from asyrp_lit.data.latents import from_uint8
from asyrp_lit.editing.seeds import derive_seed, derive_seeds


def test_the_seed_of_an_image_is_of_its_own_pixels_and_the_runs_seed():
    pixels = torch.randint(0, 256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seeds = derive_seeds(from_uint8(pixels), 5)
    assert seeds == [derive_seed(each.numpy().tobytes(), 5) for each in pixels]
    assert derive_seeds(from_uint8(pixels.flip(0)), 5) == seeds[::-1]
    assert len({*seeds, *derive_seeds(from_uint8(pixels), 6)}) == 6
