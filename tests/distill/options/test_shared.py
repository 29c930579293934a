"""The options of recipes: what is said about values that cannot be."""

import pytest

from distill.config import load
from distill.options import AdaptRecipe
from tests.distill.recipe_helpers import refused


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "unknown key 'optim.lrr': did you mean 'optim.lr'?"),
        ("optm.lr=1", "unknown key 'optm': did you mean 'optim'?"),
        ("distortion.snr=[0,1]", "unknown key 'distortion.snr': did you mean 'distortion.snr_db'?"),
        ("data.zzz=1", "unknown key 'data.zzz'; choose from batch_seconds, batch_size, "),
        ("optim.lr=fast", "optim.lr: Value 'fast' of type 'str' could not be converted to Float"),
        ("seed=1.5", "seed: Value '1.5' of type 'float' could not be converted to Integer"),
        ("optim=3", "optim: a section of keys was expected, not one value (3)"),
        ("student.targets=4", "student.targets: expected a list, as in [4, 8, 12]"),
        ("student.targets=[a]", "student.targets: expected a list, as in [4, 8, 12]"),
        ("optim.betas=[0.9]", "optim.betas: expected a list, as in [0.9, 0.98]"),
        ("data.train=a.tsv", "data.train: expected a list"),
        ("teacher=null", "teacher: Incompatible value 'None'"),
        ("name=${nothing}", "name: Interpolation key 'nothing' not found"),
        ("cdm=setup4", "cdm must be one of none, setup1, setup2, setup2_same, not 'setup4'"),
        ("kind=distill", "kind must be one of distil, adapt, spiral, finetune, teacher, not 'distill'"),
        ("optim.lr=-1", "optim: lr must be positive, not -1.0"),
        ("dat.lr=0", "dat: lr must be positive, not 0.0"),
        ("optim.max_steps=0", "optim: max_steps must be at least 1"),
        ("optim.accumulate=0", "optim: accumulate must be at least 1"),
        ("optim.warmup=1.0", "optim: warmup must be in [0, 1)"),
        ("optim.clip_norm=-1", "optim: clip_norm must be 0 (off) or positive"),
        ("dat.weight=-1", "dat: weight must not be negative"),
        ("cosine_weight=-1", "cosine_weight must not be negative"),
        ("seed=-1", "seed must not be negative"),
        ("seed=4294967296", "seed must be below 2**32"),
        ("data.order_seed=-1", "data: order_seed must be in [0, 2**32), not -1"),
        ("optim.lr=nan", "optim: lr must be finite, not nan"),
        ("optim.eps=.inf", "optim: eps must be finite"),
        ("optim.eps=-1", "optim: eps must not be negative"),
        ("optim.warmup=nan", "optim: warmup must be finite"),
        ("optim.clip_norm=inf", "optim: clip_norm must be finite"),
        ("optim.weight_decay=nan", "optim: weight_decay must be finite"),
        ("optim.betas=[0.9,nan]", "optim: betas must be finite"),
        ("optim.betas=[0.9,1.5]", "optim: betas must be in [0, 1)"),
        ("student.dropout=nan", "student: dropout must be finite"),
        ("student.dropout=2", "student: dropout must be in [0, 1]"),
        ("cosine_weight=nan", "cosine_weight must be finite"),
        ("dat.weight=nan", "dat: weight must be finite"),
        ("data.batch_seconds=inf", "data: batch_seconds must be finite"),
        ("distortion.snr_db=[nan,10]", "distortion: snr_db must be"),
        ("data.batch_size=0", "data: batch_size must be at least 1"),
        ("data.max_samples=399", "data: max_samples must be at least 400 (one frame)"),
        ("data.workers=-1", "data: workers must be 0 to 1024"),
        ("data.workers=100000000", "data: workers must be 0 to 1024"),
        ("validation.every_n_steps=0", "validation: every_n_steps must be at least 1"),
        ("logging.every_n_steps=0", "logging: every_n_steps must be at least 1"),
        ("logging.wandb=of", "logging: wandb must be auto, online, offline or off, not 'of'"),
        ("distortion.variant=s3prl", "distortion: variant must be paper or authors, got 's3prl'"),
        ("distortion.variant=[1]", "distortion.variant: "),
        ("distortion.snr_db=[20,10]", "distortion: snr_db must be [lowest, highest]"),
        ("distortion.additive=[rain]", "distortion: additive must be a list of musan, "),
    ],
)
def test_a_mistake_is_named_in_one_line(override, message):
    said = refused("s4", override)
    assert said.startswith("s4: ") and message in said


def test_mistakes_of_adapt_recipes():
    assert "targets: features must be mfcc or layer, not 'mel'" in refused("t1_prime", "targets.features=mel")
    assert "targets: clusters must be at least 2" in refused("t1_prime", "targets.clusters=1")
    assert "unknown key 'student'" in refused("t1_prime", "student.layers=2")
    assert isinstance(load("t1_prime"), AdaptRecipe)


@pytest.mark.parametrize(
    ("name", "instead"),
    [("s1", "set cdm to setup1"), ("t1_prime", "set distort=true"), ("spiral_mini", "set distort=true")],
)
def test_a_curriculum_needs_distortions(name, instead):
    said = f"{name}: distortion.curriculum needs distorted speech: {instead}"
    assert said in refused(
        name, "distortion.curriculum=0.5", *(["distort=false"] if name == "t1_prime" else [])
    )


def test_dat_needs_distortions():
    assert "s1: dat needs distorted speech: set cdm" in refused("s1", "dat.enabled=true")
