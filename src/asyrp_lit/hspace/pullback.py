"""Directions in x_t from the encoder's Jacobian dh/dx_t (Park et al. 2023, arXiv 2307.12868, section 3).

Its right singular vectors v are what h answers most to, its left ones u say how. J is never formed: subspace iteration
takes products with it (forward mode) and with its transpose (reverse mode), for all images of a batch at once.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Images, TimeEmbedding, Timesteps

#: x_t -> h, each image by itself.
Encode = Callable[[Tensor], Tensor]


class LocalBasis(NamedTuple):
    """The leading singular triples of dh/dx_t at each image, the largest first.

    Attributes:
        u: (B, k, C, H, W) orthonormal in h.
        s: (B, k) singular values.
        v: (B, k, C, S, S) orthonormal in x_t.
    """

    u: Float[Tensor, "batch k h_channels h_height h_width"]
    s: Float[Tensor, "batch k"]
    v: Float[Tensor, "batch k channels height width"]


def make_encode(model: HSpaceUNet, t: int) -> Encode:
    """The encoder of a model at one timestep, with an attention that forward mode can differentiate."""

    def encode(x_t: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return model.encode(x_t, torch.full((len(x_t),), t, device=x_t.device)).h

    return encode


def find_local_basis(encode: Encode, x_t: Images, k: int, iterations: int) -> LocalBasis:
    """The k leading singular triples at each image by subspace iteration from a fixed random start.

    An iteration takes k products with J and k with its transpose. The error of a singular value falls with the square
    of (s_{k + 1} / s_i) an iteration.

    Args:
        encode: treats each image by itself.
        x_t: where; not differentiated through afterwards.
        k: 1 or more.
        iterations: 1 or more.
    """
    exact = torch.autocast(x_t.device.type, enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), exact:
        x_t = x_t.detach().clone()
        start = torch.randn(k, x_t[0].numel(), generator=torch.Generator().manual_seed(0))
        v = torch.linalg.qr(start.to(x_t).mT)[0].mT.expand(len(x_t), -1, -1)
        for _ in range(iterations):
            v = torch.linalg.svd(_multiply_transposed(encode, x_t, _multiply(encode, x_t, v)), full_matrices=False)[2]
        moved = _multiply(encode, x_t, v)
        left, s, right = torch.linalg.svd(moved.flatten(2), full_matrices=False)
        u = right.reshape(len(x_t), -1, *moved.shape[2:])
        return LocalBasis(u, s, (left.mT @ v).reshape(len(x_t), -1, *x_t.shape[1:]))


def _multiply(encode: Encode, x_t: Tensor, v: Tensor) -> Tensor:
    """J v for k vectors of each image, (B, k, C, H, W)."""
    products: list[Tensor] = [jvp(encode, (x_t,), (rows.reshape(x_t.shape),))[1] for rows in v.unbind(dim=1)]
    return torch.stack(products, dim=1).detach()


def _multiply_transposed(encode: Encode, x_t: Tensor, u: Tensor) -> Tensor:
    """J^T u for k vectors of each image, (B, k, C S S)."""
    pull: Callable[[Tensor], tuple[Tensor]] = vjp(encode, x_t)[1]
    return torch.stack([pull(rows)[0].flatten(1) for rows in u.unbind(dim=1)], dim=1).detach()


def transport(u: Float[Tensor, "1 h_channels h_height h_width"], basis: LocalBasis) -> Images:
    """The unit v of each image that moves h along u, another image's, as far as its local basis can.

    Parallel transport in h (Park et al. 2023, section 3): u is projected on the span of the image's own left vectors,
    and the pseudo-inverse of J there takes it back to x_t.

    Args:
        u: (1, C, H, W) direction in h.
        basis: of the images that it is taken to.
    """
    shares = (basis.u.flatten(2) @ u.flatten()) / basis.s
    v: Tensor = torch.einsum("bk,bkchw->bchw", shares, basis.v)
    length: Tensor = v.flatten(1).norm(dim=1).clamp(min=torch.finfo(v.dtype).tiny)
    return v / length.view(-1, 1, 1, 1)


class Bases:
    """The local bases of a model's encoder, those of the latest batches kept: directions of one model share them.

    Args:
        model: the frozen network.
        keep: how many batches of images; a basis takes ``rank`` times the size of an image and its h.
    """

    def __init__(self, model: HSpaceUNet, keep: int = 1) -> None:
        self.model, self.keep = model, keep
        self._known: list[tuple[tuple[int, int, int], Tensor, LocalBasis]] = []

    def find(self, x_t: Images, t: int, k: int, iterations: int) -> LocalBasis:
        """As ``find_local_basis``; nothing is computed where it was for the same images, t and settings."""
        for settings, images, basis in self._known:
            if settings == (t, k, iterations) and torch.equal(images, x_t):
                return basis
        basis = find_local_basis(make_encode(self.model, t), x_t, k, iterations)
        self._known = [*self._known, ((t, k, iterations), x_t, basis)][-self.keep :]
        return basis


class PullbackDelta(nn.Module):
    """A direction of space x: what is added to x_t where its h is asked for (``editing.sample.guide_x``).

    Args:
        h_channels, h_size: shape of h.
        channels, image_size: shape of x_t.
        step: length of v for strength 1, as a share of sqrt(C S S), the length of white noise.
        transported: whether each image gets the v that moves its own h along u; ``False`` gives all the first one's.
        rank, iterations: of the local basis that u is transported to.
    """

    space = "x"
    u: Tensor
    v: Tensor

    def __init__(
        self,
        h_channels: int,
        h_size: int,
        channels: int,
        image_size: int,
        step: float,
        transported: bool,
        rank: int,
        iterations: int,
    ) -> None:
        super().__init__()
        self.step, self.transported, self.rank, self.iterations = step, transported, rank, iterations
        self.register_buffer("u", torch.zeros(1, h_channels, h_size, h_size))
        self.register_buffer("v", torch.zeros(1, channels, image_size, image_size))
        self.bases: Bases | None = None

    def attach(self, bases: Bases) -> None:
        """Tell it whose encoder u is transported through; ``attach_bases`` does where it was not."""
        self.bases = bases

    def forward(self, h: Images, temb: TimeEmbedding, t: Timesteps) -> Images:
        """What strength 1 adds to x_t, which here is the first argument; copies of an image are transported once.

        Raises:
            ValueError: it is to be transported and no model is attached.
        """
        length: float = self.step * self.v.numel() ** 0.5
        if not self.transported:
            return length * self.v.expand_as(h)
        if self.bases is None:
            raise ValueError("a pullback direction needs the model that it is transported through: attach bases first")
        images, rows = torch.unique(h, dim=0, return_inverse=True)
        basis = self.bases.find(images.to(self.u), int(t[0]), self.rank, self.iterations)
        v: Tensor = length * transport(self.u, basis)
        return v[rows].to(h)


def attach_bases(directions: Sequence[object], model: HSpaceUNet) -> None:
    """Tell the pullback directions among some which model they are for; they share their bases."""
    found = [direction for direction in directions if isinstance(direction, PullbackDelta)]
    if any(direction.bases is None or direction.bases.model is not model for direction in found):
        bases = Bases(model)
        for direction in found:
            direction.attach(bases)
