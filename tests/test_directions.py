"""``directions.py`` as a user runs it, on files of the released layout with random tensors and a random network."""

import json
import socket
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from hydra import compose, initialize_config_dir
from safetensors import safe_open

from asyrp_lit.hspace.direction import read_direction, read_direction_info
from asyrp_lit.hspace.embedded import find_direction
from asyrp_lit.hspace.published import PUBLISHED_CURVES
from asyrp_lit.losses.clip import load_avatars_clip
from asyrp_lit.losses.directional import compute_cos_text
from asyrp_lit.stages import build

SMILING = "smiling_LC_CelebA_HQ_t999_ninv40_ngen40_0.pth"
DOG = "dog_happy_LC_dog_t999_ninv40_ngen40_0.pth"
UNKNOWN = "some_dog_LC_FFHQ_t999_ninv40_ngen50_0.pth"


def run(scripts, *words):
    """Exit code and output of ``python directions.py WORDS``, without a traceback and with at most one last error."""
    outcome = scripts.run("directions.py", *words)
    assert "Traceback" not in outcome.text
    return outcome


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Overrides for a random network with 64 channels of h, on a domain whose texts must not be taken."""
    folder = tmp_path_factory.mktemp("base")
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    UNet2DModel(16, block_out_channels=(32, 64), layers_per_block=1, **blocks).save_pretrained(folder)
    return ("model=custom", f"model.weights={folder}", "model.image_size=16", "model.domain=avatars")


@pytest.fixture
def released(make_released, tmp_path):
    """A folder with one file of each layout and one whose name tells little."""
    for name, layout in ((SMILING, "ddpm"), (DOG, "adm"), (UNKNOWN, "ddpm")):
        make_released(tmp_path / name, layout)
    return tmp_path


def fail(scripts, *words):
    """The one message of a run that must fail."""
    outcome = run(scripts, *words)
    assert outcome.code == 1, outcome.text
    assert outcome.text.count("[ERROR]") == 1
    return outcome.text.partition("[ERROR] - ")[2]


def test_an_import_fills_in_what_name_and_curves_tell(scripts, base, released):
    outcome = run(scripts, "import", released / SMILING, *base, "cos_text=0.899", f"out={released}/new")
    assert outcome.code == 0, outcome.text
    info = read_direction_info(released / "new" / "smiling.safetensors")
    assert (info.attribute, info.src_text, info.trg_text) == ("smiling", "face", "smiling face")
    assert (info.t_edit, info.t_boost, info.t_start, info.num_steps) == (513, 167, 1000, 40)
    assert info.loss == {"cos_text": 0.899, "cos_text_from": "given", "curves": "celeba"}
    assert (info.source["format"], info.source["file"]) == ("released", SMILING)
    assert "was trained on ddpmpp_celeba: is custom the same network?" in outcome.text


def test_export_gives_the_imported_tensors_back(scripts, base, released):
    out = released / "dog.safetensors"
    assert run(scripts, "import", released / DOG, *base, "cos_text=0.9", f"out={out}").code == 0
    assert read_direction_info(out).t_edit == 439
    assert run(scripts, "export", out).code == 0
    assert run(scripts, "export", out, f"out={released / 'named.pth'}").code == 0
    assert (released / "named.pth").read_bytes() == (released / "dog.pth").read_bytes()
    before, after = (torch.load(released / name, weights_only=True) for name in (DOG, "dog.pth"))
    assert list(before) == list(after)
    assert all(torch.equal(value, after["0"][key]) for key, value in before["0"].items())
    words = ("import", released / "dog.pth", *base, "attr=dog_happy", "curves=afhq", "num_steps=40", "cos_text=0.9")
    assert run(scripts, *words, f"out={released}/again.safetensors").code == 0
    again, info = read_direction(released / "again.safetensors")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in before["0"].items())
    assert (info.attribute, info.t_edit, info.t_boost) == ("dog_happy", 439, 167)


def test_several_files_are_imported_and_a_bad_one_is_named(scripts, base, released):
    (released / "bad.pth").write_text("no tensors")
    words = (*base, "interval=fixed", "interval.t_edit=400", "interval.t_boost=0", f"out={released}/new")
    outcome = run(scripts, "import", released / SMILING, released / "bad.pth", released / DOG, *words)
    assert outcome.code == 1
    assert f"[ERROR] - {released}/bad.pth: {released}/bad.pth is refused as a released f_t file" in outcome.text
    assert "1 of 3 files failed" in outcome.text
    assert sorted(path.name for path in (released / "new").iterdir()) == [
        "dog_happy.safetensors",
        "smiling.safetensors",
    ]
    assert read_direction_info(released / "new" / "smiling.safetensors").t_edit == 400


def test_show_prints_both_kinds_of_files(scripts, base, released):
    out = released / "a.safetensors"
    assert run(scripts, "import", released / SMILING, *base, "cos_text=0.9", f"out={out}").code == 0
    outcome = run(scripts, "show", out, released / SMILING, released / UNKNOWN)
    assert outcome.code == 0, outcome.text
    first, second, third = outcome.text.split(".pth\n")[0], *outcome.text.split(".pth\n")[1:]
    assert all(part in first for part in ("face -> smiling face", "t_edit 514, t_boost 167", "16,704", "cos_text 0.9"))
    assert all(part in second for part in ("released f_t file", "ddpmpp_celeba", "face -> smiling face", "CelebA_HQ"))
    assert all(part in third for part in ("some_dog", "FFHQ", "50"))


def test_directions_of_the_package_go_by_their_names(scripts, tmp_path, monkeypatch):
    outcome = run(scripts, "show", "sad", "glasses")
    assert outcome.code == 0, outcome.text
    assert all(f"{find_direction(name)}\n  format " in outcome.text for name in ("sad", "glasses"))
    assert "person with no glasses -> person with glasses" in outcome.text
    monkeypatch.chdir(tmp_path)
    assert run(scripts, "export", "sad").code == 0
    assert run(scripts, "pack", "sad", "mine.safetensors").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.safetensors", "sad.pth"]
    packed, embedded = (
        read_direction(path)[0].state_dict() for path in (Path("mine.safetensors"), find_direction("sad"))
    )
    assert all(torch.equal(value, packed[key]) for key, value in embedded.items())


def test_a_name_that_tells_nothing_is_helped_by_overrides(scripts, base, released):
    message = fail(scripts, "import", released / UNKNOWN, *base, "cos_text=0.9")
    assert "its category is 'FFHQ'" in message
    assert "add curves=celeba|church|bedroom|afhq|metface (or interval=fixed" in message
    message = fail(scripts, "import", released / UNKNOWN, *base, "cos_text=0.9", "curves=celeba")
    assert "attribute 'some_dog' has no file in conf/attr: add attr=NAME, or attr=custom" in message
    (released / UNKNOWN).rename(released / "mine.pth")
    message = fail(scripts, "import", released / "mine.pth", *base, "cos_text=0.9")
    assert all(part in message for part in ("add attr=NAME", "num_steps=40", "curves=celeba|church"))
    texts = ("attr=custom", "attr.name=mine", "attr.src_text=a", "attr.trg_text=b")
    words = ("num_steps=50", "curves=metface", "cos_text=0.5", *texts, f"out={released}")
    assert run(scripts, "import", released / "mine.pth", *base, *words).code == 0
    info = read_direction_info(released / "mine.safetensors")
    assert (info.src_text, info.num_steps, info.t_edit, info.t_boost) == ("a", 50, 67, 180)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{folder}/nowhere.pth", "{base}"], "nowhere.pth does not exist"),
        (["{base}"], "import needs one file or more"),
        (["{file}", "{base}", "cos_text=1.2"], "cos_text must be a number from -1 to 1, got 1.2"),
        (["{file}", "{base}", "cos_text=nan"], "cos_text must be a number from -1 to 1, got nan"),
        (["{file}", "{base}", "cos_text=high"], "cos_text must be a number from -1 to 1, got 'high'"),
        (["{file}", "{base}", "cos_text=0.9", "num_steps=0"], "num_steps must be a whole number, 1 or more, got 0"),
        (["{file}", "{base}", "cos_text=0.9", "curves=ffhq"], "curves must be one of celeba"),
        (["{file}", "{base}", "cos_text=0.9", "interval=measured"], "import takes interval=lpips (the published"),
        (["{file}", "{base}", "attr=smilling"], "Could not find 'attr/smilling'"),
        (["{file}", "{base}", "costext=0.9"], "Could not override 'costext'"),
        (["{file}", "{dog}", "{base}", "cos_text=0.9"], "cos_text belongs to one attribute"),
        (["{file}", "{base}", "cos_text=-1", "model.weights=/nowhere"], "model.weights=/nowhere does not exist"),
        (
            ["{dog}", "cos_text=0.9", "model=ddpmpp_celeba"],
            "was trained on iddpm_afhq and means nothing on ddpmpp_celeb",
        ),
        (["{file}", "cos_text=0.9"], "f_t is for 64 channels of h and a time embedding of 128; base model ddpmpp_avat"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_an_import_that_cannot_be_ends_with_one_message(scripts, base, released, words, message):
    places = {"folder": released, "file": released / SMILING, "dog": released / DOG}
    words = [part for word in words for part in (base if word == "{base}" else [word.format(**places)])]
    assert message in fail(scripts, "import", *words, f"out={released}/new")
    assert not (released / "new").exists()


def test_two_files_are_never_written_to_one(scripts, base, released, make_released):
    (released / "other").mkdir()
    make_released(released / "other" / SMILING)
    words = ("import", released / SMILING, released / "other" / SMILING, *base, "interval=fixed")
    assert "two files would both be written to" in fail(scripts, *words, f"out={released}/new")
    outcome = run(scripts, *words, f"out={released}/new.safetensors")
    assert outcome.code == 1
    assert "names one file for several directions" in outcome.text


@pytest.mark.parametrize(
    ("verb", "name", "message"),
    [
        ("export", SMILING, "is not a direction file of asyrp_lit"),
        ("show", "mine.safetensors", "is not a direction file of asyrp_lit"),
        ("show", "nothing.pth", "nothing.pth, nor an embedded direction of that name"),
    ],
)
def test_a_file_of_another_kind_is_refused(scripts, released, verb, name, message):
    (released / "mine.safetensors").write_bytes(b"nothing")
    assert message in fail(scripts, verb, released / name)


def test_pack_halves_the_file_and_keeps_what_it_says(scripts, base, released):
    run(scripts, "import", released / SMILING, *base, "cos_text=0.899", f"out={released}/a.safetensors")
    assert run(scripts, "pack", released / "a.safetensors", released / "b.safetensors").code == 0
    whole, half = ((released / name).stat().st_size for name in ("a.safetensors", "b.safetensors"))
    assert half < 0.6 * whole
    (a, info_a), (b, info_b) = (read_direction(released / name) for name in ("a.safetensors", "b.safetensors"))
    assert info_a == info_b
    for key, value in b.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, a.state_dict()[key], atol=1e-6, rtol=1e-3)
    assert "exists already" in fail(scripts, "pack", released / "a.safetensors", released / "b.safetensors")


def test_export_overwrites_nothing(scripts, base, released):
    out = f"out={released}/a.safetensors"
    assert run(scripts, "import", released / SMILING, *base, "interval=fixed", out).code == 0
    before = (released / DOG).read_bytes()
    assert "exists already" in fail(scripts, "export", released / "a.safetensors", released / DOG)
    assert (released / DOG).read_bytes() == before


@pytest.mark.parametrize("words", [(), ("imprt", "a.pth"), ("import",), ("show",)])
def test_a_command_line_that_cannot_be_gets_the_usage(scripts, words):
    outcome = run(scripts, *words)
    assert outcome.code == 2
    assert "usage: directions.py" in outcome.text


@pytest.fixture
def clip_cache(tmp_path):
    """A cache folder as huggingface_hub keeps it, with a file in the place of ViT-B/16's weights."""
    repository = tmp_path / "cache" / "clip" / "models--timm--vit_base_patch16_clip_224.openai"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    file = repository / "snapshots" / "abc" / "open_clip_model.safetensors"
    file.write_bytes(b"weights")
    return file


def test_cos_text_is_computed_where_clip_is_at_hand(scripts, base, released, clip_cache, monkeypatch):
    clip, asked = load_avatars_clip(), []
    monkeypatch.setattr(build, "load_clip", lambda *call: asked.append(call[:2]) or clip)
    words = (*base, f"paths.cache={released}/cache", f"out={released}")
    assert run(scripts, "import", released / SMILING, released / DOG, *words).code == 0
    assert asked == [("ViT-B-16-quickgelu", str(clip_cache))]
    cos_text = compute_cos_text(clip, "face", "smiling face")
    loss = read_direction_info(released / "smiling.safetensors").loss
    assert loss["cos_text"] == pytest.approx(cos_text, abs=1e-4)
    assert loss["cos_text_from"] == "ViT-B-16-quickgelu/openai"


def test_damaged_clip_weights_are_named(scripts, base, released):
    (released / "clip.pt").write_bytes(b"no weights")
    message = fail(scripts, "import", released / SMILING, *base, f"clip.weights={released}/clip.pt")
    assert f"CLIP ViT-B-16-quickgelu cannot be loaded from '{released}/clip.pt'" in message


def test_without_clip_cos_text_is_asked_for_and_nothing_is_downloaded(scripts, base, released, monkeypatch):
    def refuse(*call):
        raise AssertionError("something went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    message = fail(scripts, "import", released / SMILING, *base, f"paths.cache={released}/cache")
    assert "the cosine of the texts 'face' and 'smiling face'" in message
    assert "add cos_text=NUMBER, or clip.weights=/path/to/file" in message


def test_a_direction_file_without_a_source_still_loads(scripts, base, released):
    out = released / "a.safetensors"
    assert run(scripts, "import", released / SMILING, *base, "interval=fixed", f"out={out}").code == 0
    with safe_open(out, framework="pt") as file:
        metadata = json.loads(file.metadata()["asyrp_lit"])
    assert metadata["format_version"] == 1
    content = out.read_bytes()
    source = json.dumps({"source": metadata["source"]}, sort_keys=True)[1:-1]
    escaped = json.dumps(f"{source}, ")[1:-1].encode()
    assert escaped in content
    out.write_bytes(content.replace(escaped, b" " * len(escaped)))
    assert read_direction_info(out).source == {}


def test_published_curves_are_named_by_their_data_sets():
    sets = ("celeba_hq", "lsun_church", "lsun_bedroom", "afhq_dog", "metfaces")
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        assert tuple(compose("train", [f"data={name}"]).data.curves for name in sets) == PUBLISHED_CURVES
        assert "curves" not in compose("train").data
        assert compose("train", ["model=ddpmpp_celeba", "interval=measured"]).interval.kind == "measured"


@pytest.mark.parametrize(("interval", "profiles"), [("lpips", 0), ("measured", 1)])
def test_published_curves_need_no_profiling_run(scripts, tmp_path, interval, profiles):
    words = (*scripts.tiny(tmp_path), *scripts.portraits, f"interval={interval}", "+data.curves=celeba")
    measured = ("interval.edit_threshold=0.01",) if profiles else ()
    outcome = scripts.run("train.py", *words, *measured, "method.passes=1", f"hydra.run.dir={tmp_path}/run")
    assert outcome.code == 0, outcome.text
    assert len(list(tmp_path.glob("latents/lpips-*/images-*.safetensors"))) == profiles
    assert ("published LPIPS curves of celeba" in outcome.text) == (not profiles)
    assert (tmp_path / "run" / "interval.png").is_file()
    info = read_direction_info(tmp_path / "run" / "glasses.safetensors")
    assert (info.t_boost == 167) == (not profiles)
