"""Whose targets a run of `distill adapt` has, and which it refuses."""

import json

import pytest
from lhotse import CutSet

from distill.adaptation.command import make_and_report
from distill.adaptation.targets import Targets
from distill.adaptation.targets_options import TargetsOptions
from distill.checkpoints import export, load_teacher
from distill.data.audio import samples_at_16k
from distill.data.sources import open_cuts
from distill.data_prep.manifests import write_cuts
from distill.errors import ConfigError, DataError
from distill.hubert import HubertEncoder
from distill.run import run
from tests.distill.adaptation.small_recipes import adapt_recipe, speech_words


@pytest.fixture(scope="module")
def given(mini_data, tmp_path_factory):
    """A folder of `distill adapt targets`, and one whose dev set has clusters of its own."""
    out = tmp_path_factory.mktemp("targets")
    overrides = tuple(speech_words(mini_data))
    make_and_report(TargetsOptions(source="mini_teacher", overrides=overrides, out=out / "good", jobs=1))
    make_and_report(
        TargetsOptions(source="mini_teacher", overrides=overrides, out=out / "other", jobs=1, seed=9)
    )
    (out / "mixed").mkdir()
    (out / "mixed/train").symlink_to(out / "good/train")
    (out / "mixed/dev").symlink_to(out / "other/dev")
    return out


@pytest.fixture(scope="module")
def slow_teacher(tmp_path_factory):
    """Of 25 frames a second, which see 720 samples."""
    conv_layers = (*HubertEncoder.from_preset("mini").config.conv_layers, (32, 2, 2))
    teacher = HubertEncoder.from_preset("mini", layers=1, conv_layers=conv_layers)
    export(teacher, "native", tmp_path_factory.mktemp("slow"))
    return tmp_path_factory.getbasetemp() / "slow0"


@pytest.mark.parametrize("features", ["mfcc", "layer"])
def test_a_teacher_of_another_frame_rate(mini_data, slow_teacher, tmp_path, features):
    """Its targets have a label for each of its own frames, however long the crops are."""
    options = [f"teacher={slow_teacher}", f"targets.features={features}", "targets.layer=1"]
    run(adapt_recipe(mini_data, *options, "data.max_samples=10000"), tmp_path / "run")
    config = load_teacher(tmp_path / "run").config
    assert config.hop == 640
    targets = Targets.load(tmp_path / "run/targets/train")
    assert (targets.hop, targets.receptive_field, targets.frame_rate_hz) == (640, 720, 25.0)
    for cut in open_cuts(f"{mini_data}/speech_train.jsonl.gz"):
        assert len(targets.labels[cut.id]) == config.frames(samples_at_16k(cut))


def test_targets_of_another_frame_rate_are_refused(mini_data, slow_teacher, given, tmp_path):
    options = [f"teacher={slow_teacher}", f"targets.folder={given}/good"]
    with pytest.raises(ConfigError, match=r"a label every 320 .*, the frames of .* are 640 apart") as error:
        run(adapt_recipe(mini_data, *options), tmp_path / "run")
    assert "\n" not in str(error.value)


def contents_of(run_folder):
    kept = [run_folder / "recipe.yaml", *run_folder.glob("targets/*/*"), *run_folder.glob("checkpoints/*")]
    return {path: path.read_bytes() for path in kept}


@pytest.mark.parametrize(
    "change", ["targets.clusters=12", "targets.features=layer targets.layer=2", "targets.codebook={other}"]
)
def test_a_resumed_run_keeps_its_targets_and_its_recipe(finished, mini_data, given, change):
    before = contents_of(finished)
    more = change.format(other=given / "other/train").split()
    with pytest.raises(ConfigError, match="a resumed run keeps its targets"):
        run(adapt_recipe(mini_data, "optim.max_steps=4", *more), finished, resume=True)
    assert contents_of(finished) == before


def test_an_unfinished_start_with_another_teacher_speech_or_seed_makes_its_own_targets(mini_data, tmp_path):
    of_layer = ["targets.features=layer", "targets.layer=2"]
    run(adapt_recipe(mini_data, *of_layer), tmp_path / "run")
    (tmp_path / "run/checkpoints/last.ckpt").unlink()  # killed before it was written
    first = json.loads((tmp_path / "run/targets/train/job.json").read_text())
    run(adapt_recipe(mini_data, *of_layer, "seed=1"), tmp_path / "run")  # other random weights
    second = json.loads((tmp_path / "run/targets/train/job.json").read_text())
    assert second["seed"] == 1 and first["weights"] != second["weights"]


def test_targets_of_two_codebooks_or_another_one_are_refused(mini_data, given, tmp_path):
    def start(*more):
        run(adapt_recipe(mini_data, *more), tmp_path / "run")

    with pytest.raises(ConfigError, match="mixed/train and .*mixed/dev are of different codebooks"):
        start(f"targets.folder={given}/mixed")
    with pytest.raises(ConfigError, match="was made with another codebook than"):
        start(f"targets.folder={given}/good", f"targets.codebook={given}/other/train")
    with pytest.raises(ConfigError, match="10 clusters of mfcc, the recipe wants 11 of mfcc: set targets"):
        start(f"targets.folder={given}/good", "targets.clusters=11")
    start(f"targets.folder={given}/good", f"targets.codebook={given}/good/train")


def test_targets_of_other_speech_are_refused_before_training(mini_data, given, tmp_path):
    speech = f"data.train=[{mini_data}/speech_test.jsonl.gz]"
    with pytest.raises(DataError, match=r"utterances of data.train have no labels in .*good/train, such as"):
        run(adapt_recipe(mini_data, f"targets.folder={given}/good", speech), tmp_path / "run")


def test_targets_of_other_audio_under_the_same_names_are_said(mini_data, given, tmp_path, caplog):
    quiet = [cut.perturb_volume(0.5, affix_id=False) for cut in open_cuts(f"{mini_data}/speech_dev.jsonl.gz")]
    write_cuts(quiet, tmp_path / "quiet.jsonl.gz")
    folder, dev = f"targets.folder={given}/good", f"data.dev=[{tmp_path}/quiet.jsonl.gz]"
    run(adapt_recipe(mini_data, folder, dev), tmp_path / "run")
    said = "good/dev holds labels of other audio than data.dev has under the same names"
    assert caplog.text.count(said) == 1 and "good/train holds" not in caplog.text


def test_targets_belong_to_a_split_where_train_and_dev_have_the_same_names(mini_data, tmp_path):
    """As `train/000.wav` and `dev/000.wav` have."""
    for split in ("train", "dev"):
        cuts = list(CutSet.from_file(mini_data / f"speech_{split}.jsonl.gz"))
        for number, cut in enumerate(cuts):
            cut.id = f"{number:03d}"
        CutSet.from_cuts(cuts).to_file(tmp_path / f"{split}.jsonl.gz")
    speech = [f"data.{split}=[{tmp_path}/{split}.jsonl.gz]" for split in ("train", "dev")]
    adaptation, seen = adapt_recipe(mini_data, "data.max_samples=400000", *speech), {}

    def stop(trainer, module, data, out, **_):
        data.trainer = trainer
        seen["train"], seen["dev"] = data._dataset("train"), data._dataset("dev")
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("distill.adaptation.run.fit", stop)
        run(adaptation, tmp_path / "run")
    for split, dataset in seen.items():
        made = Targets.load(tmp_path / "run/targets" / split).labels
        batch = dataset[0, 0, [0, 1]]
        assert batch.ids == ["000", "001"] and not batch.skipped
        for row, name in zip(batch.targets, batch.ids, strict=True):
            assert row[: len(made[name])].tolist() == made[name][: len(row)].tolist()


def test_equal_names_within_a_split_are_refused_with_both_files(mini_data, tmp_path):
    source = f"{mini_data}/speech_train.jsonl.gz"
    (cut, *_) = CutSet.from_file(source)
    file = cut.recording.sources[0].source
    with pytest.raises(DataError, match=f"{file} and {file} are both called {cut.id}; names must differ"):
        run(adapt_recipe(mini_data, f"data.train=[{source}, {source}]"), tmp_path / "run")
