"""What is tested is whole: nothing that is missing or broken becomes silence; what is silent is counted."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill.analysis.invariance import layer_cosines
from distill.analysis.listening import samples_of_distortions
from distill.analysis.models import OurModel
from distill.analysis.splits import make_splits
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.distortions import Distorter
from distill.downstream import head_testing
from distill.downstream.distorted_sets import DistortedSet
from distill.downstream.embeddings import embed_set
from distill.downstream.evaluate import evaluate
from distill.downstream.head_testing import measure
from distill.downstream.materialise import materialise
from distill.downstream.probe import ProbeTask, probe
from distill.errors import DataError
from distill.hubert import HubertEncoder
from tests.downstream.stand_ins import Ear


@pytest.fixture(scope="module")
def encoder() -> HubertEncoder:
    torch.manual_seed(0)
    return HubertEncoder.from_preset("mini").eval()


@pytest.fixture
def speech(tmp_path) -> str:
    """Six utterances of two classes."""
    (tmp_path / "speech").mkdir()
    generator = np.random.default_rng(0)
    rows = ["path\tlabel"]
    for index in range(6):
        soundfile.write(tmp_path / "speech" / f"{index}.wav", 0.1 * generator.standard_normal(4000), 16_000)
        rows.append(f"{index}.wav\t{index % 2}")
    (tmp_path / "speech" / "all.tsv").write_text("\n".join(rows) + "\n")
    return str(tmp_path / "speech" / "all.tsv")


def write_noise(folder: Path, level: float = 0.1, name: str = "clip") -> dict[str, list[str]]:
    """Manifests of the test conditions' noise and rooms; each of one file in `folder/audio`."""
    from distill.data_prep.manifests import cut_from_file, write_cuts

    (folder / "audio").mkdir(parents=True)
    generator = np.random.default_rng(1)
    sources = {}
    for corpus in ("musan", "wham", "fsd", "dns", "rir"):
        path = folder / "audio" / f"{corpus}-{name}.flac"
        soundfile.write(path, level * generator.standard_normal(5000), 16_000)
        write_cuts([cut_from_file(path)], folder / f"{corpus}.jsonl.gz")
        sources[corpus] = [str(folder / f"{corpus}.jsonl.gz")]
    return sources


@pytest.fixture
def noises(tmp_path) -> dict[str, list[str]]:
    return write_noise(tmp_path / "noise")


def break_audio(noises, how: str) -> None:
    """Take the files of noise and rooms away, or all but their headers."""
    for path in (Path(noises["fsd"][0]).parent / "audio").iterdir():
        if how == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:100])


SIBLINGS = {
    "a set": lambda speech, noises, encoder, out: list(
        DistortedSet(open_cuts(speech), "fsd", NoiseReader(noises)).batches()
    ),
    "embeddings": lambda speech, noises, encoder, out: embed_set(
        {"m": encoder}, DistortedSet(open_cuts(speech), "dns", NoiseReader(noises))
    ),
    "a linear probe": lambda speech, noises, encoder, out: probe(
        {"m": encoder}, ProbeTask(*[open_cuts(speech)] * 3), ["clean", "fsd"], NoiseReader(noises)
    ),
    "cosines": lambda speech, noises, encoder, out: layer_cosines(
        {"m": encoder},
        *(DistortedSet(open_cuts(speech), name, NoiseReader(noises)) for name in ("clean", "dns")),
    ),
    "t-SNE": lambda speech, noises, encoder, out: make_splits(
        [OurModel(encoder, "m")], open_cuts(speech), NoiseReader(noises)
    ),
    "sounds of a report": lambda speech, noises, encoder, out: samples_of_distortions(speech, noises),
    "a set that is written": lambda speech, noises, encoder, out: materialise(
        speech, out / "set", "dns", noises
    ),
}


@pytest.mark.parametrize("name", SIBLINGS)
@pytest.mark.parametrize("how", ["missing", "broken"])
def test_noise_that_is_gone_ends_what_needs_it(name, how, speech, noises, encoder, tmp_path):
    break_audio(noises, how)
    said = r"1 audio files of 1 utterances cannot be used: .*-clip.flac: does not exist"
    if how == "broken":
        said = r"the noise or room \w+-clip of a test cannot be used: cannot be read .*; repair or replace it"
    with pytest.raises(DataError, match=said):
        SIBLINGS[name](speech, noises, encoder, tmp_path)


@pytest.mark.parametrize("name", SIBLINGS)
def test_what_is_whole_is_tested(name, speech, noises, encoder, tmp_path, caplog):
    SIBLINGS[name](speech, noises, encoder, tmp_path)
    assert "silent" not in caplog.text


def test_noise_that_was_moved_away_is_named_before_anything_is_trained(
    quick, student, task_data, noises, tmp_path
):
    (Path(noises["fsd"][0]).parent / "audio").rename(tmp_path / "elsewhere")
    config = quick("ks", conditions=["clean", "fsd"], noises={"fsd": noises["fsd"]}, workers=1)
    said = r"fsd.jsonl.gz: 1 audio files of 1 utterances cannot be used: .*fsd-clip.flac: does not exist;"
    with pytest.raises(DataError, match=said):
        evaluate(student, config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_noise_that_cannot_be_read_ends_a_test(speech, noises, workers, monkeypatch):
    """In a worker as well."""
    monkeypatch.setattr(head_testing, "_WORTH_A_PROCESS", 1)
    break_audio(noises, "broken")
    with pytest.raises(DataError, match="^the noise or room fsd-clip of a test cannot be used: cannot be re"):
        measured(open_cuts(speech), "fsd", noises, workers=workers)


def measured(cuts, condition, noises, *, workers=0):
    return measure(
        Ear(),  # pyright: ignore
        list(cuts),
        {cut.id: [cut.id] for cut in cuts},  # pyright: ignore
        Distorter.from_config(condition, split="test"),
        NoiseReader(noises),
        seed=0,
        batch_size=4,
        workers=workers,
        name="test",
    )


def test_silent_clips_are_counted(speech, tmp_path, caplog):
    """Of two noises and rooms one is silent; so is one utterance."""
    loud, quiet = write_noise(tmp_path / "loud"), write_noise(tmp_path / "quiet", 0.0, "quiet")
    soundfile.write(Path(speech).parent / "5.wav", np.zeros(4000), 16_000)
    both = {name: [*loud[name], *quiet[name]] for name in loud}
    cuts = open_cuts(speech)
    found = measured(cuts, "dns", both).silent
    dataset = DistortedSet(cuts, "dns", NoiseReader(both))
    plan = [done for *_, batch in dataset.batches() for done in batch]
    assert found["speech"] == 1 and found["noise"] == sum(done.additive == "none" for done in plan) - 1 > 0
    assert found["rir"] == sum(not done.rir for done in plan) > 0
    assert dataset.silent == found and not measured(cuts, "clean", both).silent
    (said,) = caplog.messages
    assert said.startswith(f"dns: of 6 utterances 1 with silent speech, {found['noise']} with silent noise, ")
    assert said.endswith(f"{found['rir']} with a silent room response stayed without noise or room")


def test_silence_stands_in_the_result(quick, student, tmp_path, capsys):
    quiet = write_noise(tmp_path / "quiet", 0.0)
    config = quick("ks", conditions=["clean", "fsd"], noises=quiet, steps=1, every_n_steps=1)
    clean, fsd = (json.loads(path.read_text()) for path in evaluate(student, config, tmp_path / "out"))
    assert clean["silent"] == {} and fsd["silent"] == {"noise": fsd["n_utterances"]}
    assert clean["value"] == fsd["value"]
    said = capsys.readouterr().err
    assert f"({fsd['n_utterances']} utterances, {fsd['n_utterances']} with silent noise stayed wit" in said


def test_sounds_of_what_is_silent_are_left_out(speech, tmp_path, caplog):
    quiet = write_noise(tmp_path / "quiet", 0.0)
    _, samples = samples_of_distortions(speech, {"fsd": quiet["fsd"]})
    assert not any("FSD50K" in sample.title for sample in samples) and len(samples) == 5
    assert "no sound of fsd with 0: the utterance or the noise is silent" in caplog.text


def test_speech_that_cannot_be_read_ends_a_set(speech):
    soundfile.write(Path(speech).parent / "3.wav", np.full(4000, np.nan), 16_000, subtype="FLOAT")
    with pytest.raises(DataError, match="^3: samples are not finite"):
        list(DistortedSet(open_cuts(speech), "gaussian").batches())


def test_a_set_that_is_written_goes_on_without_it_and_lists_it(speech, tmp_path, caplog):
    folder = Path(speech).parent
    shutil.copytree(folder, tmp_path / "whole")
    soundfile.write(folder / "3.wav", np.full(4000, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(folder / "4.wav", np.ones(100), 16_000)
    path = materialise(speech, tmp_path / "set", "gaussian", {})
    assert (path.parent / "skipped.tsv").read_text().splitlines() == [
        "4\t100 samples, a frame needs 400",
        "3\tsamples are not finite",
    ]
    assert "2 of 6 utterances cannot be used, " in caplog.text and "the first is 4: 100" in caplog.text
    whole = materialise(str(tmp_path / "whole" / "all.tsv"), tmp_path / "other", "gaussian", {})
    for name in "0125":
        assert (path.parent / f"{name}.flac").read_bytes() == (whole.parent / f"{name}.flac").read_bytes()
    assert [cut.id for cut in open_cuts(path.parent / "cuts.jsonl.gz")] == ["0", "1", "2", "5"]
    assert not (whole.parent / "skipped.tsv").exists()


def test_a_set_of_nothing_but_broken_speech_is_none(speech, tmp_path):
    for path in Path(speech).parent.glob("*.wav"):
        soundfile.write(path, np.full(4000, np.nan), 16_000, subtype="FLOAT")
    with pytest.raises(
        DataError, match="6 of 6 utterances cannot be used, .*skipped.tsv lists them; the fir"
    ):
        materialise(speech, tmp_path / "set", "gaussian", {})
    assert not (tmp_path / "set" / "cuts.jsonl.gz").exists()
