"""Images that other stores have are copied into a new one."""

import importlib.util
from pathlib import Path

import pytest
import torch

from asyrp_lit.data.latents import LatentStore
from asyrp_lit.data.random_latents import RandomLatents
from asyrp_lit.inversion.fill import fill_store, make_store_key
from asyrp_lit.inversion.siblings import Siblings

spec = importlib.util.spec_from_file_location("filler", Path(__file__).with_name("test_invert.py"))
filler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(filler)
make_model, make_store = filler.make_model, filler.make_store
STEPS = 5


class Squares(filler.Squares):
    """As many as ``count``, with a fingerprint of their own; those in ``changed`` have other pixels."""

    def __init__(self, count, changed=()):
        super().__init__(count)
        self.changed = changed

    def __getitem__(self, index):
        item = super().__getitem__(index)
        return item._replace(x_0=-item.x_0) if index in self.changed else item

    def fingerprint(self):
        return f"{len(self)} {self.changed}"


def fill(root, source, siblings=True, **options):
    """The filled store, what was found beside it, and how many images passed through the network."""
    model = make_model()
    store = make_store(root, model, source, **options)
    found = Siblings(store)
    fill_store(model, source, store, 3, progress=False, siblings=found if siblings else None)
    passes = STEPS - 1 + (STEPS if store.key.pred_x0_steps else 0)
    return store, found, model.passes["encode"] / passes


@pytest.mark.parametrize("kept", [(), (999, 0)])
def test_only_images_that_no_store_has_are_inverted_to_the_same_latents(tmp_path, kept):
    more = (999, 499, 0) if kept else ()
    before, _, first = fill(tmp_path / "reused", Squares(6), pred_x0_steps=more)
    store, found, second = fill(tmp_path / "reused", Squares(8, changed=(1,)), pred_x0_steps=kept)
    whole, _, _ = fill(tmp_path / "whole", Squares(8, changed=(1,)), siblings=False, pred_x0_steps=kept)
    assert (first, second, found.num_found) == (6, 3, 5)
    for index in range(8):
        torch.testing.assert_close(store[index], whole[index], rtol=0, atol=1e-3 if kept else 1e-5)
    assert not store.missing_shards()
    assert found.places == {before.place}


@pytest.mark.parametrize("other", [{"num_steps": 6}, {"precision": "bf16"}, {"pred_x0_steps": (999,)}])
def test_what_other_steps_or_precision_gave_is_not_copied(tmp_path, other):
    fill(tmp_path, Squares(2))
    _, found, _ = fill(tmp_path, Squares(3), **other)
    assert found.num_found == 0


def test_another_network_has_other_latents(tmp_path):
    x_0 = fill(tmp_path, Squares(2))[0][0]["x_0"]
    model = make_model()
    assert Siblings(make_store(tmp_path, model, Squares(3))).find("square-0", x_0) is not None
    model.unet.conv_out.bias.data.add_(0.01)
    assert Siblings(make_store(tmp_path, model, Squares(3))).find("square-0", x_0) is None


def test_missing_and_damaged_shards_are_passed_by(tmp_path, caplog):
    store, _, _ = fill(tmp_path, Squares(12))
    store.shard_path(0).unlink()
    store.shard_path(1).write_bytes(store.shard_path(1).read_bytes()[:-1] + b"?")
    _, found, inverted = fill(tmp_path, Squares(13))
    assert (found.num_found, inverted) == (4, 9)
    assert caplog.text.count("is truncated or corrupt") == 1


def test_a_half_written_manifest_is_passed_by(tmp_path):
    store, _, _ = fill(tmp_path, Squares(2))
    (store.folder / "manifest.json").write_text("{")
    assert fill(tmp_path, Squares(3))[1].num_found == 0


def test_a_sample_is_not_taken_for_an_inverted_image(tmp_path):
    """Its x_T was drawn: inversion of the image that the network made of it gives another."""
    model, samples = make_model(), RandomLatents("val", 2, 8)
    sampled = LatentStore.create(tmp_path, make_store_key(model, samples, STEPS, 999), samples.keys, 4)
    fill_store(model, samples, sampled, 3, progress=False)
    saved = Squares(2)
    saved.keys = samples.keys
    assert Siblings(make_store(tmp_path, model, saved)).find(samples.keys[0], sampled[0]["x_0"]) is None


def test_images_of_a_folder_called_random_are_copied(tmp_path):
    named = Squares(2)
    named.name = "random-faces"
    fill(tmp_path, named)
    assert fill(tmp_path, Squares(3))[1].num_found == 2
