"""How many images are found to fit."""

import pytest
import torch
from diffusers import UNet2DModel

from asyrp_lit.models.capacity import find_largest, try_sampling
from asyrp_lit.models.hspace_unet import HSpaceUNet


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")]
)
@pytest.mark.parametrize(("fitting", "at_most", "largest"), [(5, 64, 4), (4, 64, 4), (100, 16, 16), (1, 1, 1)])
def test_the_largest_power_of_two_that_fits_is_found(fitting, at_most, largest, error):
    tried = []

    def attempt(size):
        tried.append(size)
        if size > fitting:
            raise error

    assert find_largest(attempt, at_most) == largest
    assert tried == [2**i for i in range(len(tried))]


def test_a_device_that_holds_not_one_image_says_so():
    def attempt(size):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="not even one image fits"):
        find_largest(attempt, 8)


def test_other_errors_are_not_taken_for_a_full_memory():
    for error in (ZeroDivisionError(), RuntimeError("size mismatch")):

        def attempt(size, error=error):
            raise error

        with pytest.raises(type(error)):
            find_largest(attempt, 8)


def test_what_is_tried_is_an_edit_s_step():
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    model = HSpaceUNet(unet)
    try_sampling(model, 3, torch.device("cpu"))
    assert model.passes == {"encode": 3, "decode": 6}
