import pytest
import torch
from torch.testing import assert_close

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.editing.strips import sample_strengths
from asyrp_lit.hspace.combine import Scaled

INTERVAL = Interval(t_edit=499, t_boost=500)
SEEDS = [11, 22]


@pytest.fixture(scope="module")
def parts(model, direction):
    x_T = 0.01 * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return (model, x_T, make_time_grid(5), make_alphas_cumprod()), direction


def test_several_strengths_at_once_are_each_of_them_alone(parts):
    common, direction = parts
    columns = sample_strengths(*common, direction, INTERVAL, (-1.0, 0.5, 2.0), SEEDS)
    for strength in (-1.0, 0.5, 2.0):
        alone = sample_images(*common, Scaled(direction, strength), INTERVAL, SEEDS)
        assert_close(columns[f"strength {strength:g}"], alone, atol=1e-5, rtol=1e-5)
    assert list(columns) == ["strength -1", "strength 0.5", "strength 2"]


def test_strengths_share_all_passes_until_the_first_edit(parts):
    (model, *rest), direction = parts
    model.passes.update(encode=0, decode=0)
    sample_strengths(model, *rest, direction, Interval(499, 0, t_start=749), (0.0, 0.5, 1.0, 2.0), SEEDS)
    # 999: one image; 749: one encode, one eps and three edits; 499: all four part; 249 and 0 are not edited.
    assert model.passes == {"encode": 2 * (1 + 1 + 4 + 4 + 4), "decode": 2 * (1 + 4 + 7 + 4 + 4)}


def test_strength_zero_is_the_reconstruction_beside_others(parts):
    common, direction = parts
    columns = sample_strengths(*common, direction, INTERVAL, (1.0, 0.0), SEEDS)
    plain = sample_images(*common, None, INTERVAL, SEEDS)
    assert_close(columns["strength 0"], plain, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(columns["strength 1"], plain, atol=1e-2)


def test_copies_come_out_where_no_step_edits(parts):
    common, direction = parts
    columns = sample_strengths(*common, direction, Interval(1000, 0), (1.0, 2.0), SEEDS)
    assert torch.equal(columns["strength 1"], columns["strength 2"])


def test_the_reconstruction_is_never_boosted(parts):
    common, direction = parts
    columns = sample_strengths(*common, direction, INTERVAL, (None, 0.0, 1.0), SEEDS)
    assert_close(columns["reconstruction"], sample_images(*common), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(columns["reconstruction"], columns["strength 0"], atol=1e-2)


def test_boosting_before_the_first_edit_keeps_reconstruction_and_edits_apart(parts):
    common, direction = parts
    columns = sample_strengths(*common, direction, Interval(0, 1000, t_start=499), (None, 1.0), SEEDS)
    alone = sample_images(*common, direction, Interval(0, 1000, t_start=499), SEEDS)
    assert_close(columns["reconstruction"], sample_images(*common), atol=1e-5, rtol=1e-5)
    assert_close(columns["strength 1"], alone, atol=1e-5, rtol=1e-5)
