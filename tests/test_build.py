"""What of cfg reaches the frozen networks."""

from unittest import mock

import torch

from asyrp_lit.stages import build, frozen


def test_compile_reaches_the_network_and_a_missing_compiler_the_user(scripts, tmp_path):
    options = (*scripts.tiny(tmp_path), *scripts.portraits, "compile=reduce-overhead")
    with mock.patch("asyrp_lit.stages.build.check_compiler", side_effect=ValueError("no g++ here")):
        assert "no g++ here" in scripts.run("invert.py", *options).text
    with (
        mock.patch("asyrp_lit.stages.build.check_compiler"),
        mock.patch("asyrp_lit.models.hspace_unet.HSpaceUNet.compile_halves") as compiled,
    ):
        assert scripts.run("invert.py", *options).code == 0
    compiled.assert_called_once_with("reduce-overhead")


def test_networks_are_channels_last_unless_told_otherwise(scripts, tmp_path):
    with (
        mock.patch.object(frozen, "_KEPT", {}),
        mock.patch.object(build, "build_sources", side_effect=KeyboardInterrupt),
    ):
        for wanted in (True, False):
            words = (*scripts.tiny(tmp_path), *scripts.portraits, *(() if wanted else ("channels_last=false",)))
            scripts.run("invert.py", *words)
            weight = frozen._KEPT["unet"].network.unet.conv_in.weight
            assert weight.is_contiguous(memory_format=torch.channels_last) is wanted
