"""What a user may get wrong: one clear message, an exit code other than 0, nothing half-written."""

import errno
import re

import pytest
import torch
import wandb
from diffusers import UNet2DModel
from PIL import Image

import asyrp_lit.data.latents
from asyrp_lit.training.asyrp import AsyrpModule


@pytest.fixture(scope="module")
def finished(scripts, tmp_path_factory):
    """A run folder with a direction, and the stores that most of the tests can reuse."""
    outputs = tmp_path_factory.mktemp("outputs")
    run = outputs / "finished"
    options = (*scripts.tiny(outputs), *scripts.portraits, "interval=all", "method.passes=1")
    assert scripts.run("train.py", *options, f"hydra.run.dir={run}").code == 0
    return run


@pytest.fixture
def fail(scripts, finished, tmp_path):
    """Run a script that must fail, and return the one message that it ends with."""

    def fail(name, *overrides, tiny=True):
        run = tmp_path / "run"
        data = () if "data=folder" in overrides else scripts.portraits
        common = (*scripts.tiny(finished.parent), *data, "interval=all") if tiny else (f"paths.outputs={tmp_path}",)
        outcome = scripts.run(name, *common, f"hydra.run.dir={run}", *overrides)
        assert outcome.code not in (0, None), outcome.text
        assert "Traceback" not in outcome.text
        assert outcome.text.count("[ERROR]") <= 1
        assert not [path for kind in ("*.tmp", "*.safetensors", "metrics.json") for path in tmp_path.rglob(kind)]
        return outcome.text.partition("[ERROR] - ")[2] or outcome.text

    return fail


@pytest.fixture
def images(tmp_path):
    """A folder of two images and a file that only looks like one."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in (("a.png", "red"), ("c.png", "blue")):
        Image.new("RGB", (40, 36), colour).save(folder / name)
    (folder / "b.png").write_bytes(b"no picture at all")
    return folder


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["attr=yuong"], "Could not find 'attr/yuong'"),
        (["model=ddpm"], "Could not find 'model/ddpm'"),
        (["method.batchsize=3"], "Key 'batchsize' is not in struct"),
        (["trainer=gpu", "attr=beard=x"], "mismatched input"),
    ],
    ids=["attribute", "model", "key", "syntax"],
)
def test_hydra_names_what_it_does_not_know(fail, overrides, message):
    assert message in fail("train.py", *overrides, tiny=False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.num_steps=0"], "method.num_steps must be a whole number, 2 or more, got 0"),
        (["method.num_steps=1"], "method.num_steps must be a whole number, 2 or more, got 1"),
        (["method.num_steps=2000"], "num_steps must be 2 to t_0 + 1 = 1000, got 2000"),
        (["method.num_steps=many"], "method.num_steps must be a whole number, 2 or more, got 'many'"),
        (["method.t_0=1000"], "t_0 must be 1 to 999, got 1000"),
        (["method.batch_size=0"], "method.batch_size must be a whole number, 1 or more, or auto, got 0"),
        (["method.chunk_size=0"], "method.chunk_size must be a whole number, 1 or more, or null or auto, got 0"),
        (["method.passes=0"], "method.passes must be a whole number, 1 or more, got 0"),
        (["compile=fast"], "compile must be one of false, true, default, reduce-overhead, max-autotune,"),
        (["compile=1.0"], "compile must be one of false, true, default, reduce-overhead, max-autotune,"),
        (["trainer.precision=bf16-true"], "trainer.precision must be 32-true or bf16-mixed, got 'bf16-true'"),
        (["trainer.precision=16-mixed"], "trainer.precision must be 32-true or bf16-mixed, got '16-mixed'"),
        (["compile=1"], "compile must be one of false, true, default, reduce-overhead, max-autotune,"),
        (["inversion_batch_size=-1"], "inversion_batch_size must be a whole number, 1 or more, or auto, got -1"),
        (["method.kind=f_x"], "method.kind must be one of f_t_ddpm, f_t_adm, per_timestep, global, f_eps, got 'f_x'"),
        (["method.init_from=nosuch"], "there is no direction file nosuch, nor an embedded direction of that name"),
        (["method.init_scale=-1"], "method.init_scale must be a number, 0 or more, got -1"),
        (["method.train_strengths=0.5"], "method.train_strengths must be two numbers, the lower first"),
        (["method.train_strengths=[2,1]"], "method.train_strengths must be two numbers, the lower first"),
        (["method.train_strengths=null"], "as in [0.5,1.75] or [-1.5,2]; got None"),
        (["method.train_strengths=[-1,0]"], "as in [0.5,1.75] or [-1.5,2]; got [-1, 0]"),
        (["method.train_strengths=[-inf,1]"], "as in [0.5,1.75] or [-1.5,2]; got [-inf, 1]"),
        (["method.train_strengths=[1,2,3]"], "as in [0.5,1.75] or [-1.5,2]; got [1, 2, 3]"),
        (
            ["method.init_scale=0", "method.loss.clip_source=pred_x0"],
            "clip_source=pred_x0 needs method.init_scale above 0",
        ),
        (["method.optimizer.lr=nan"], "method.optimizer.lr must be a finite number above 0, got nan"),
        (["method.optimizer.lr=1e300"], "method.optimizer.lr must be a finite number above 0, got 1e+300"),
        (["interval=fixed", "interval.t_edit=-5"], "t_edit must be 0 to 1000, got -5"),
        (["interval.kind=guess"], "interval.kind must be fixed, lpips or measured, got 'guess'"),
        (["attr.avatars.where.glasses=maybe"], "maybe"),
        (["model.image_size=64"], "is for images of 32 px, but model.image_size is 64"),
        (["data=folder"], "data=folder needs data.train.folder=/path/to/images"),
        (["data=folder", "data.train.folder=/nowhere"], "image folder /nowhere does not exist"),
        (["clip=vit_b_16", "clip.weights=/nowhere/vit.pt"], "CLIP weights '/nowhere/vit.pt' are neither a file nor"),
        (["clip.weights=/nowhere/clip.safetensors"], "/nowhere/clip.safetensors"),
        (["clip.templates=some"], "clip.templates must be 'imagenet' or 'none', got 'some'"),
        (["resume=/nowhere"], "nothing to resume: /nowhere/last.ckpt does not exist"),
        (["model.weights=/nowhere"], "base model custom: model.weights=/nowhere does not exist"),
        (["model.weights=null"], "base model custom needs model.weights=/path"),
        (["model.max_eps_error=0.25"], "a setting is wrong (model.num_head_channels"),
        (["model.build._target_=asyrp_lit.models.load"], "full_key: model.build"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_value_that_cannot_be_is_named(fail, overrides, message):
    assert message in fail("train.py", *overrides)


def test_clip_weights_of_another_network_are_refused(fail, scripts):
    file = scripts.unet / "diffusion_pytorch_model.safetensors"
    message = fail("train.py", f"clip.weights={file}")
    assert f"CLIP avatars cannot be loaded from '{file}'" in message
    assert "name it with clip.weights=/path/to/file" in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(fail):
    assert "take trainer=cpu" in fail("train.py", "trainer=gpu")


def test_a_missing_checkpoint_says_where_to_put_it(fail, tmp_path):
    options = ("attr=young", "model=ddpmpp_celeba", "data=avatars", f"paths.cache={tmp_path}")
    message = fail("train.py", *options, tiny=False)
    assert f"{tmp_path}/weights/celeba_hq.ckpt" in message
    assert "model.weights=" in message


def test_a_direction_of_another_base_model_is_refused(fail, scripts, finished, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    unet = UNet2DModel.from_pretrained(scripts.unet)
    torch.nn.init.normal_(unet.conv_in.weight)
    unet.save_pretrained(other, safe_serialization=True)
    direction = finished / "glasses.safetensors"
    message = fail("evaluate.py", f"direction={direction}", f"model.weights={other}")
    assert "does not fit" in message
    assert "Choose the base model custom" in message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "evaluate.py needs direction="),
        (["direction=[smiling,glasses]"], "evaluate.py needs direction=, a file (train.py writes one) or the name of"),
        (["direction=/nowhere.safetensors"], "there is no direction file /nowhere.safetensors, nor an embedded"),
        (["direction=glasses"], "glasses.safetensors was trained on ddpmpp_avatars"),
        (["direction={unet}/diffusion_pytorch_model.safetensors"], "is not a direction file of asyrp_lit"),
        (["direction={run}/glasses.safetensors", "attr=beard"], "edits 'glasses': add attr=glasses"),
        (
            ["direction={run}/glasses.safetensors", "strengths=[]"],
            "strengths must be finite numbers, such as",
        ),
        (["direction={run}/glasses.safetensors", "strengths=[true,1]"], "strengths=[0.5,1], got [True, 1]"),
        (["direction={run}/glasses.safetensors", "strengths=[a]"], "strengths=[0.5,1], got ['a']"),
    ],
    ids=["none", "several", "missing", "embedded", "another file", "another attribute", "no strengths", "true", "word"],
)
def test_evaluate_says_what_is_wrong_with_a_direction(fail, scripts, finished, overrides, message):
    options = [override.format(run=finished, unet=scripts.unet) for override in overrides]
    assert message in fail("evaluate.py", *options)


def test_an_attribute_without_labels_has_no_true_pairs(fail):
    assert "names no portrait labels" in fail("check_texts.py", "attr=young", tiny=False)


def test_a_folder_without_images_is_named(fail, tmp_path):
    (tmp_path / "empty").mkdir()
    message = fail("invert.py", "data=folder", f"data.train.folder={tmp_path / 'empty'}")
    assert f"folder {tmp_path / 'empty'} has no images" in message


def test_a_broken_image_is_named_or_left_out(fail, images, scripts, tmp_path):
    options = ("data=folder", f"data.train.folder={images}", f"paths.latents={tmp_path / 'latents'}")
    message = fail("invert.py", *options)
    assert str(images / "b.png") in message
    assert "data.on_bad_image=skip" in message
    outcome = scripts.run("invert.py", *scripts.tiny(tmp_path), *options, "data.on_bad_image=skip")
    assert outcome.code == 0
    assert "left out 1 of 2 images" in outcome.text
    assert len(list((tmp_path / "latents").glob("*/shard-*"))) == 2  # of train and val, one image each


def test_a_resumed_run_must_be_of_the_same_edit(fail, finished):
    message = fail("train.py", f"resume={finished}", "attr=smiling")
    assert "was started with another attr" in message
    assert "method.num_steps=4" in message
    assert "was started with another method.kind" in fail("train.py", f"resume={finished}", "method.kind=global")


def test_a_damaged_checkpoint_is_named(fail, tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"half of one")
    assert f"{tmp_path / 'last.ckpt'} cannot be resumed" in fail("train.py", f"resume={tmp_path}")


def test_a_nan_loss_stops_and_keeps_the_last_good_state(fail, tmp_path):
    message = fail("train.py", "method.passes=2", "method.lr_decay=1.0e38")
    assert "the loss became" in message
    assert "lower method.optimizer.lr" in message
    state = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert (state["epoch"], state["global_step"]) == (0, 8)
    assert all(value.isfinite().all() for value in state["state_dict"].values())


def test_a_last_update_to_nan_leaves_no_direction(fail):
    fixed = ("interval=fixed", "interval.t_edit=999", "interval.t_boost=0")
    single = (
        "method=paper",
        "method.batch_size=4",
        "method.optimizer.lr=1.0e38",
        "+method.optimizer.weight_decay=1.0e38",
    )
    assert "an update made the direction NaN" in fail("train.py", *fixed, *single)


def test_a_full_disk_is_named_and_leaves_whole_shards_only(fail, monkeypatch, tmp_path):
    def refuse(path, payload):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(asyrp_lit.data.latents, "write_atomically", refuse)
    message = fail("invert.py", f"paths.latents={tmp_path / 'latents'}")
    assert "could not write shard 0" in message
    assert "No space left on device" in message
    assert "paths.latents" in message
    assert not list(tmp_path.glob("latents/*/shard-*"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_a_full_memory_ends_in_advice(fail, monkeypatch, error):
    def evaluate(self, batch):
        raise error

    monkeypatch.setattr(AsyrpModule, "_evaluate", evaluate)
    message = fail("train.py", "method.passes=1")
    assert re.search(r"memory.*; the memory is full: lower method\.chunk_size in training \(1 takes least", message)
    assert "See the documentation" not in message


@pytest.mark.parametrize("name", ["method.batch_size", "inversion_batch_size"])
def test_several_processes_do_not_find_a_size_that_they_share(fail, monkeypatch, name):
    """Neither those that were started together nor those that Lightning would start later."""
    message = f"{name}=auto is for one process: give a number"
    assert message in fail("train.py", f"{name}=auto", "trainer.devices=2", "+trainer.strategy=ddp")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert message in fail("train.py", f"{name}=auto")


def test_weights_and_biases_without_a_key_ends_in_one_message(fail, monkeypatch):
    def init(**settings):
        assert settings["mode"] is None
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", init)
    message = fail("train.py", "logger=wandb", "method.passes=1")
    assert "No API key configured. Use `wandb login` to log in; logger.wandb.offline=true needs neither" in message
