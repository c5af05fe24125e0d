"""The contract that every frozen network meets: a U-Net cut at its bottleneck (h-space, Asyrp section 3.2)."""

import copy
import hashlib
import json
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from asyrp_lit.models.compiled import compile_half, unchecked
from asyrp_lit.models.lowered import LoweredCopy
from asyrp_lit.shapes import BottleneckH, Images, TimeEmbedding, Timesteps

#: Bytes; torch's own allocator gives addresses that are multiples of it.
ALIGNMENT = 64


class Bottleneck(NamedTuple):
    """What the encoder hands to the decoder.

    ``h`` is the output of the whole middle block; ``skips`` are the encoder's activations; ``temb`` is the time
    embedding after its second Linear and before any SiLU.
    """

    h: BottleneckH
    skips: tuple[Tensor, ...]
    temb: TimeEmbedding

    def repeat(self, times: int) -> "Bottleneck":
        """The same samples ``times`` over along the batch, sample-major blocks: all of them, then all again."""
        return Bottleneck(
            self.h.repeat(times, 1, 1, 1),
            tuple(skip.repeat(times, 1, 1, 1) for skip in self.skips),
            self.temb.repeat(times, 1),
        )

    def select(self, rows: slice | Tensor) -> "Bottleneck":
        """Some of the samples, by a slice or by int64 indices."""
        return Bottleneck(self.h[rows], tuple(skip[rows] for skip in self.skips), self.temb[rows])


class HSpaceUNet(nn.Module):
    """A frozen UNet2DModel in two halves; ``decode(encode(x, t))`` is bit-equal to its own forward.

    Args:
        unet: any unconditional UNet2DModel; output channels beyond the input's (learned sigma) are cut off.
        name: what to call it in file names and reports.
    """

    def __init__(self, unet: UNet2DModel, name: str = "custom") -> None:
        super().__init__()
        self.unet = unet.eval().requires_grad_(False)
        for parameter in unet.parameters():  # mapped from a file they lie anywhere, and a CPU's kernels round by it
            if parameter.data_ptr() % ALIGNMENT:
                parameter.data = parameter.data.clone()
        for module in unet.modules():
            if isinstance(module, Attention):
                module.register_forward_hook(unchecked(_keep_strides))
        self.name = name
        self._run_encoder, self._run_decoder = run_encoder, run_decoder
        self._lowered = LoweredCopy()
        #: Calls of encode and decode, in images: what the cost of a run is counted in.
        self.passes = {"encode": 0, "decode": 0}

    def train(self, mode: bool = True) -> "HSpaceUNet":
        """Stay in eval mode: the network is frozen."""
        return super().train(False)

    def compile_halves(self, mode: bool | str = True, backend: str = "inductor") -> None:
        """Compile encode and decode, each when it is first called; arguments are ``compile_half``'s."""
        self._run_encoder = compile_half(run_encoder, mode, backend)
        self._run_decoder = compile_half(run_decoder, mode, backend)

    def without_compiling(self) -> "HSpaceUNet":
        """The same network, weights and all, with halves that are not compiled."""
        plain = copy.copy(self)
        plain._run_encoder, plain._run_decoder = run_encoder, run_decoder
        return plain

    @property
    def image_size(self) -> int:
        """Edge of its images in pixels."""
        size = self.unet.config.sample_size
        return int(size if isinstance(size, int) else size[0])

    @property
    def h_channels(self) -> int:
        """Channels of h."""
        return int(self.unet.config.block_out_channels[-1])

    @property
    def h_size(self) -> int:
        """Edge of h in pixels."""
        return self.image_size // int(2 ** (len(self.unet.config.block_out_channels) - 1))

    @property
    def temb_channels(self) -> int:
        """Width of the time embedding."""
        return int(self.unet.time_embedding.linear_2.out_features)

    def encode(self, x_t: Images, t: Timesteps) -> Bottleneck:
        """First half: down blocks and the whole middle block.

        Args:
            x_t: (B, C, S, S).
            t: (B,) int64.
        """
        self.passes["encode"] += len(x_t)
        unet = self._lowered.choose(self.unet, x_t.device.type)
        return Bottleneck(*self._run_encoder(unet, x_t, t))

    def decode(self, bottleneck: Bottleneck, delta_h: BottleneckH | None = None) -> Images:
        """Second half: eps from h, or from h + delta_h, with the encoder's skips and time embedding unchanged.

        Returns:
            eps, (B, C, S, S).
        """
        self.passes["decode"] += len(bottleneck.h)
        unet = self._lowered.choose(self.unet, bottleneck.h.device.type)
        eps: Images = self._run_decoder(unet, *bottleneck, delta_h)
        return eps

    def forward(self, x_t: Images, t: Timesteps) -> Images:
        """eps, one whole pass."""
        return self.decode(self.encode(x_t, t))

    def fingerprint(self) -> str:
        """Twelve hex digits over all weights in float32 and the configuration."""
        config = {key: value for key, value in self.unet.config.items() if not key.startswith("_")}
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        for key, value in sorted(self.unet.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]


def run_encoder(unet: UNet2DModel, x_t: Images, t: Timesteps) -> tuple[BottleneckH, tuple[Tensor, ...], TimeEmbedding]:
    """The fields of ``Bottleneck`` for ``encode``'s arguments."""
    if unet.config.center_input_sample:
        x_t = 2 * x_t - 1.0
    temb = unet.time_embedding(unet.time_proj(t).to(x_t.dtype))
    sample = unet.conv_in(x_t)
    skips: tuple[Tensor, ...] = (sample,)
    for block in unet.down_blocks:
        sample, block_skips = block(hidden_states=sample, temb=temb)
        skips += block_skips
    if unet.mid_block is not None:
        sample = unet.mid_block(sample, temb)
    return sample, skips, temb


def run_decoder(
    unet: UNet2DModel, h: BottleneckH, skips: tuple[Tensor, ...], temb: TimeEmbedding, delta_h: BottleneckH | None
) -> Images:
    """Eps from the fields of ``Bottleneck``."""
    sample = h if delta_h is None else h + delta_h
    for block in unet.up_blocks:
        taken = len(block.resnets)
        sample = block(sample, skips[-taken:], temb)
        skips = skips[:-taken]
    # P_t multiplies the error of eps by up to 157 (t = 999): bfloat16 is too coarse for the last layers.
    with torch.autocast(sample.device.type, enabled=False):
        sample = unet.conv_out(unet.conv_act(unet.conv_norm_out(sample.to(unet.conv_out.weight.dtype))))
    eps: Images = sample[:, : unet.config.in_channels]
    return eps


def _keep_strides(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """On a CPU, attention's output in its input's strides: GroupNorm on a mixture of both is less exact there."""
    if output.device.type != "cpu" or args[0].is_contiguous(memory_format=torch.channels_last):
        return output
    return output.contiguous()
