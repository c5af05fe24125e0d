"""What of cfg reaches the frozen networks."""

from unittest import mock

import pytest
import torch
from omegaconf import OmegaConf

from asyrp_lit.stages import build, frozen
from asyrp_lit.stages.device import count_processes


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


@pytest.mark.parametrize(
    ("devices", "expected"), [(1, 1), ("1", 1), (2, 2), ([0], 1), ([0, 3], 2), ("0,", 1), ("0,3", 2), ("auto", 1)]
)
def test_processes_are_counted_as_lightning_reads_its_devices(devices, expected):
    trainer = {"accelerator": "cpu", "devices": devices}
    assert count_processes(OmegaConf.create({"trainer": trainer})) == expected
    assert count_processes(OmegaConf.create({"trainer": trainer | {"num_nodes": 3}})) == 3 * expected
