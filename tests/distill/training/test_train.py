"""Whole runs on the tiny corpora: every recipe, and mistakes that are named before training."""

import pytest
import torch
from lhotse import CutSet

from bench.resume import same
from distill.checkpoints import load_student, load_teacher
from distill.config import load, recipe_names
from distill.data_prep import CORPORA
from distill.errors import ConfigError, UserError
from distill.options import DistillRecipe
from distill.run import run
from distill.training.saving import read_checkpoint
from tests.distill.training.runs import differs, in_rooms, log, tiny, weights


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_trains(mini_data, tmp_path, name):
    if load(name).kind in ("teacher", "finetune"):
        return  # nothing is trained: see below; tests/downstream/finetuning
    recipe = tiny(mini_data, name=name)
    released = run(recipe, tmp_path)
    values = log(tmp_path)
    assert len(values["train/loss"]) == 2
    assert all(torch.isfinite(torch.tensor(v)).all() for v in values.values())
    model = load_student(tmp_path) if recipe.kind == "distil" else load_teacher(tmp_path)
    assert released == tmp_path / f"{'student' if recipe.kind == 'distil' else 'teacher'}.safetensors"
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert ("dat/loss" in values) == (name in ("s5", "s5_prime", "s6", "s6_prime"))
    if isinstance(recipe, DistillRecipe):
        first, _, last = recipe.student.targets
        parts = {f"train/l1_layer{first}", f"train/cosine_layer{last}"}
        assert parts | {"val/loss", "val/loss_clean", "lr"} <= values.keys()
        # Clean speech for both is what plain DistilHuBERT validates on.
        assert (values["val/loss"] == values["val/loss_clean"]) == (recipe.cdm == "none")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_student(mini_data, tmp_path, finished):
    same = run(tiny(mini_data, "validation.every_n_steps=2", "seed=3", name="s6", steps=8), tmp_path / "same")
    run(tiny(mini_data, "validation.every_n_steps=2", "seed=4", name="s6", steps=8), tmp_path / "other")
    expected = load_student(finished).state_dict()
    assert differs(load_student(same).state_dict(), expected) == 0
    assert differs(load_student(tmp_path / "other").state_dict(), expected) > 0


@pytest.mark.slow
def test_shards_give_the_student_that_files_give(mini_data, tmp_path, finished):
    (tmp_path / "shards").mkdir()
    CutSet.from_file(mini_data / "speech_train.jsonl.gz").to_shar(
        str(tmp_path / "shards"), fields={"recording": "flac"}, shard_size=5
    )
    CORPORA["shar"](tmp_path / "shards", tmp_path / "data")
    of_shards = ["validation.every_n_steps=2", "seed=3", f"data.train=[{tmp_path}/data/shards.jsonl.gz]"]
    run(tiny(mini_data, *of_shards, "data.workers=1", name="s6", steps=8), tmp_path / "run")
    assert differs(weights(tmp_path / "run"), weights(finished)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["student.targets=[4,8,12]"], "the teacher has layers 1 to 6, not 8, 12"),
        (["student.layers=9"], "layers is 9, but the teacher has 6"),
        (
            ["data.noises={musan: [/none]}"],
            "musan noise: /none does not exist; name a manifest, TSV or folder of audio",
        ),
        (["distortion.additive=[fsd]"], "draws fsd noise, but data.noises.fsd is not set"),
        (["trainer.devises=1"], "unknown key 'trainer.devises': did you mean trainer.devices?"),
        (["trainer.precision=17"], "trainer: "),
    ],
)
def test_mistakes_are_named_before_training(mini_data, tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        run(tiny(mini_data, *changes), tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_target_layer_that_the_teacher_does_not_have(mini_data, tmp_path):
    with pytest.raises(ConfigError, match=r"targets: layer must be in 1..6, not 9"):
        run(tiny(mini_data, "targets.layer=9", name="t1_prime"), tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_recorded_rooms_are_trained_with(mini_data, tmp_path, workers):
    rooms = mini_data / "rir_test.jsonl.gz"
    run(tiny(mini_data, *in_rooms(mini_data, rooms), f"data.workers={workers}"), tmp_path)
    assert log(tmp_path)["data/noise_left_out"] == [0, 0]


def test_rooms_that_are_not_given_are_said_before_training(mini_data, tmp_path):
    recipe = tiny(mini_data, "distortion.rir=true")
    with pytest.raises(
        ConfigError, match="draws recorded rooms, but data.noises.rir .* set distortion.rir=fal"
    ):
        run(recipe, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s6", "mini_teacher", "spiral_mini"])
def test_the_deterministic_mode_gives_the_same_bits_twice(mini_data, tmp_path, name):
    recipe = tiny(mini_data, "trainer.deterministic=true", name=name, steps=4)
    checkpoints = []
    for out in (tmp_path / "one", tmp_path / "other"):
        try:
            run(recipe, out)
            assert torch.are_deterministic_algorithms_enabled()
        finally:
            torch.use_deterministic_algorithms(False)
        checkpoints.append(read_checkpoint(out / "checkpoints" / "last.ckpt"))
    one, other = checkpoints
    for key in ("state_dict", "optimizer_states", "classifier_optimizer", "lr_schedulers", "SpeechData"):
        assert same(one.get(key), other.get(key)), key
