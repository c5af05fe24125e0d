import pytest
import torch
from diffusers import UNet2DModel
from torch.testing import assert_close

from asyrp_lit.hspace import pullback
from asyrp_lit.hspace.direction import DirectionInfo, get_space, read_direction, save_direction
from asyrp_lit.hspace.pullback import (
    Bases,
    LocalBasis,
    PullbackDelta,
    attach_bases,
    find_local_basis,
    make_encode,
    transport,
)
from asyrp_lit.models.hspace_unet import HSpaceUNet

T = 500


@pytest.fixture(scope="module")
def model():
    """With attention, which forward mode has to get through."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    return HSpaceUNet(UNet2DModel(8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, **blocks))


@pytest.fixture(scope="module")
def exact(model):
    """The model in float64, two images, their dense Jacobians and local bases."""
    model = HSpaceUNet(model.unet.double())
    x_t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    encode = make_encode(model, T)
    dense = [torch.autograd.functional.jacobian(encode, image[None]).view(-1, x_t[0].numel()) for image in x_t]
    return encode, x_t, torch.stack(dense), find_local_basis(encode, x_t, 6, 20)


def test_it_is_the_svd_of_the_dense_jacobian(exact):
    _, _, dense, basis = exact
    left, s, right = torch.linalg.svd(dense, full_matrices=False)
    assert_close(basis.s[:, :3], s[:, :3], rtol=1e-5, atol=0)
    ours, theirs = basis.v.flatten(2)[:, :3], right[:, :3]
    assert_close((ours * theirs).sum(dim=2).abs(), torch.ones(2, 3, dtype=torch.float64), rtol=1e-5, atol=0)
    ours, theirs = basis.u.flatten(2)[:, :3], left.mT[:, :3]
    assert_close((ours * theirs).sum(dim=2).abs(), torch.ones(2, 3, dtype=torch.float64), rtol=1e-5, atol=0)


def test_the_jacobian_takes_v_to_s_times_u(exact):
    _, _, dense, basis = exact
    moved = torch.einsum("bij,bkj->bki", dense, basis.v.flatten(2))
    assert_close(moved, basis.s[..., None] * basis.u.flatten(2))
    eye = torch.eye(6, dtype=torch.float64).expand(2, 6, 6)
    assert_close(basis.v.flatten(2) @ basis.v.flatten(2).mT, eye)
    assert_close(basis.u.flatten(2) @ basis.u.flatten(2).mT, eye)


def test_an_image_does_not_depend_on_its_batch(exact):
    encode, x_t, _, _ = exact
    together, apart = find_local_basis(encode, x_t, 3, 2), find_local_basis(encode, x_t[1:], 3, 2)
    assert_close(together.s[1:], apart.s)


def test_transport_of_an_image_to_itself_is_the_identity(exact):
    basis = LocalBasis(*(part[:1] for part in exact[3]))
    for k in range(6):
        assert_close(transport(basis.u[:, k], basis), basis.v[:, k])


def test_what_is_transported_moves_h_along_u_as_far_as_the_basis_spans(exact):
    _, _, dense, basis = exact
    v = transport(basis.u[:1, 0], LocalBasis(*(part[1:] for part in basis)))
    moved = dense[1] @ v.flatten()
    span = basis.u[1].flatten(1)
    projected = span.T @ (span @ basis.u[0, 0].flatten())
    assert torch.cosine_similarity(moved, projected, dim=0) > 0.999


def make_delta(exact, transported):
    basis = exact[3]
    delta = PullbackDelta(8, 4, 3, 8, step=0.04, transported=transported, rank=6, iterations=8).double()
    delta.load_state_dict({"u": basis.u[:1, 0], "v": basis.v[:1, 0]})
    return delta


@pytest.mark.parametrize("transported", [False, True])
def test_strength_one_is_as_long_as_step_says_and_on_its_own_image_it_is_v(model, exact, transported):
    delta, x_t = make_delta(exact, transported), exact[1]
    delta.attach(Bases(HSpaceUNet(model.unet)))
    copies = x_t[[0, 1, 0]]
    moved = delta(copies, torch.zeros(3, 4), torch.full((3,), T))
    assert_close(moved.flatten(1).norm(dim=1), torch.full((3,), 0.04 * 192**0.5, dtype=torch.float64))
    assert_close(moved[0], 0.04 * 192**0.5 * delta.v[0], atol=1e-4, rtol=0)
    assert torch.equal(moved[0], moved[2])
    assert torch.equal(moved[0], moved[1]) == (not transported)


@pytest.fixture
def counted(monkeypatch):
    """The batches whose basis was computed."""
    seen = []

    def count(encode, x_t, *rest):
        seen.append(len(x_t))
        return find_local_basis(encode, x_t, *rest)

    monkeypatch.setattr(pullback, "find_local_basis", count)
    return seen


def test_directions_of_one_model_share_the_bases_of_the_same_images(model, exact, counted):
    bases, x_t = Bases(HSpaceUNet(model.unet), keep=2), exact[1]
    first = bases.find(x_t, T, 2, 1)
    assert all(map(torch.equal, first, find_local_basis(exact[0], x_t, 2, 1)))
    assert bases.find(x_t.clone(), T, 2, 1) is first
    assert counted == [2]
    for images, t, k, iterations in ((x_t[:1], T, 2, 1), (x_t, T + 1, 2, 1), (x_t, T, 1, 1), (x_t, T, 2, 2)):
        bases.find(images, t, k, iterations)
    assert counted == [2, 1, 2, 2, 2]
    bases.find(x_t, T, 2, 1)
    assert counted[5:] == [2]  # the oldest were given up


def test_what_is_added_up_is_transported_once(model, exact, counted):
    network, deltas = HSpaceUNet(model.unet), [make_delta(exact, transported=True) for _ in range(2)]
    deltas[0].attach(Bases(HSpaceUNet(model.unet)))  # of another model
    attach_bases([*deltas, object()], network)
    for delta in deltas:
        delta(exact[1], torch.zeros(2, 4), torch.full((2,), T))
    assert counted == [2]
    attach_bases(deltas, network)
    deltas[1](exact[1], torch.zeros(2, 4), torch.full((2,), T))
    assert counted == [2]


def test_without_a_model_it_cannot_be_transported(exact):
    with pytest.raises(ValueError, match="needs the model that it is transported through"):
        make_delta(exact, transported=True)(exact[1], torch.zeros(2, 4), torch.full((2,), T))


def test_it_comes_back_from_its_file(exact, tmp_path):
    arguments = {"h_channels": 8, "h_size": 4, "channels": 3, "image_size": 8, "step": 0.04}
    arguments |= {"transported": False, "rank": 6, "iterations": 8}
    info = DirectionInfo("pullback", arguments, "pullback_1", "", "", "tiny", "ab12", 480, 0, 40, t_start=T)
    save_direction(tmp_path / "v.safetensors", make_delta(exact, False), info)
    direction, found = read_direction(tmp_path / "v.safetensors")
    assert found == info
    assert get_space(direction) == "x"
    assert_close(direction.v.double(), make_delta(exact, False).v, atol=1e-6, rtol=0)
