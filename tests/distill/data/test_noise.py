"""Noise and rooms that plans ask for: which, from where on, and what cannot be read or is silent."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill.data.audio import samples_at_16k
from distill.data.dataset import SpeechDataset
from distill.data.manifest import ListedCuts
from distill.data.noise import NoiseReader
from distill.distortions import Distorter, DistortionConfig, Plan, UtterancePlan
from distill.distortions.plan import draw
from distill.errors import DataError


def plan_of(**changes) -> UtterancePlan:
    values = {
        "utterance_id": "u",
        "additive": "musan",
        "non_additive": "none",
        "rir": False,
        "snr_db": 15.0,
        "noise_choice": 0.0,
        "noise_offset": 0.5,
        "rir_choice": 0.99,
        "gaussian_seed": 1,
        "room_scale": 50,
        "cents": 0.0,
        "low_hz": 100.0,
        "high_hz": 200.0,
    }
    return UtterancePlan(**(values | changes))


def test_a_noise_segment_is_that_of_the_file(noise_folder):
    reader = NoiseReader({"musan": str(noise_folder), "rir": [str(noise_folder)]})
    samples, _ = soundfile.read(noise_folder / "a.wav", dtype="float32")
    start = int(0.5 * (12_000 - 5_000 + 1))
    segment = reader.noise(plan_of(), 5_000)
    assert segment is not None and np.array_equal(segment.numpy(), samples[start : start + 5_000])
    # A clip that is shorter than the speech comes as it is; the distorter tiles it.
    whole = reader.noise(plan_of(), 50_000)
    assert whole is not None and np.array_equal(whole.numpy(), samples)
    chosen = reader.noise(plan_of(noise_choice=0.99, noise_offset=0.0), 100)
    stereo, _ = soundfile.read(noise_folder / "deep" / "d.flac", dtype="float32")
    assert chosen is not None and np.array_equal(chosen.numpy(), stereo[:100].mean(1))
    rir = reader.rir(plan_of(rir=True))
    assert rir is not None and np.array_equal(rir.numpy(), stereo.mean(1))


def test_what_needs_no_file_reads_none():
    reader = NoiseReader({})
    assert reader.noise(plan_of(additive="gaussian"), 100) is None
    assert reader.noise(plan_of(additive="none"), 100) is None
    assert reader.rir(plan_of()) is None


def test_a_corpus_that_is_not_given(noise_folder):
    with pytest.raises(DataError, match=r"wham .*data\.noises\.wham"):
        NoiseReader({"musan": str(noise_folder)}).noise(plan_of(additive="wham"), 100)


def test_a_broken_noise_clip_is_silence_not_the_end(tmp_path):
    generator = np.random.default_rng(0)
    soundfile.write(tmp_path / "clip.flac", 0.1 * generator.standard_normal(20_000), 16_000)
    reader = NoiseReader({"musan": str(tmp_path)})
    whole = (tmp_path / "clip.flac").read_bytes()
    (tmp_path / "clip.flac").write_bytes(whole[: len(whole) // 3])
    (plan,) = Distorter.from_config(DistortionConfig(additive=("musan",))).plan(["a"])
    noise = reader.noise(plan, 16_000)
    assert noise is not None and not noise.any()
    assert reader.noise(plan, 16_000) is not None
    assert [name for name, _ in reader.take_lost()] == ["clip", "clip"] and not reader.take_lost()
    with pytest.raises(DataError, match="the noise or room clip of a test cannot be used: .*; repair or rep"):
        reader.whole_view(Plan((plan,)), [16_000])


def test_a_broken_room_is_silence_too(tmp_path):
    soundfile.write(tmp_path / "room.wav", np.ones(100), 16_000)
    reader = NoiseReader({"rir": str(tmp_path)})
    (tmp_path / "room.wav").unlink()
    rir = reader.rir(plan_of(rir=True))
    assert rir is not None and not rir.any()
    assert [name for name, _ in reader.take_lost()] == ["room"]


def test_silent_recordings_are_handed_over_and_pauses_counted(cuts, tmp_path):
    """What is read is what it was; a recording that sounds somewhere is not silent."""
    config = DistortionConfig(additive=("musan",), non_additive=("none",), rir=True)
    noises = NoiseReader({"musan": str(silent_folder(tmp_path / "a")), "rir": str(tmp_path / "a")})
    options = {"distorter": Distorter.from_config(config), "noises": noises, "streams": ["student"]}
    batch = SpeechDataset(ListedCuts(list(cuts)[:3]), **options)[0, 0, [0, 1, 2]]
    assert (batch.noise_reads, batch.noise_lost, batch.noise_pauses) == (6, [], 0)
    assert batch.noise_silent == [("clip", "holds nothing but silence")] * 6
    assert batch.to("cpu").noise_silent == batch.noise_silent and noises.take_silent() == ([], 0)
    noises = NoiseReader({"musan": str(silent_folder(tmp_path / "b", sound_at_s=45))})
    clip = noises.corpora["musan"][0]
    plan = replace(Distorter.from_config(config).plan(["u"])[0], noise_offset=0.25)
    for _ in range(2):
        assert torch.equal(noises.noise(plan, 1600), torch.zeros(1600))
    assert noises.noise_clips(plan, 1600)[0][1] == (samples_at_16k(clip) - 1600) // 4
    assert noises.take_silent() == ([], 2)
    (tmp_path / "b" / "clip.wav").unlink()
    noises.noise(plan, 1600)
    assert noises.take_silent() == ([], 0) and len(noises.take_lost()) == 1


STRUNG = DistortionConfig(additive=("dns", "none"), non_additive=("none",), strung=True)


@pytest.fixture
def clips(tmp_path) -> Path:
    """Clips of 0.5 to 3 s, one of them silent, one of which the middle is."""
    generator = np.random.default_rng(0)
    for name, level, n_samples in [
        ("a", 0.1, 16_000),
        ("b", 0.001, 48_000),
        ("c", 0.3, 8_000),
        ("d", 0, 30_000),
    ]:
        soundfile.write(
            tmp_path / f"{name}.wav", level * generator.standard_normal(n_samples), 16_000, "FLOAT"
        )
    return tmp_path


def test_strung_clips_fill_the_utterance_whatever_the_batch(clips):
    reader = NoiseReader({"dns": str(clips)})
    plans = Distorter.from_config(STRUNG).plan([f"u{n}" for n in range(12)])
    lengths = [20_000 + 5_000 * n for n in range(12)]
    view = reader.view(plans, lengths)
    others = NoiseReader({"dns": str(clips)})
    back = others.view(Plan(plans.utterances[::-1]), lengths[::-1])
    for p, n, noise, same in zip(plans, lengths, view.noises, back.noises[::-1], strict=True):
        if p.additive == "none":
            assert noise is None
            continue
        assert noise is not None and same is not None and torch.equal(noise, same) and noise.shape == (n,)
        sounding = reader.noise_clips(p, n)
        assert {cut.id for cut, _ in sounding} <= {"a", "b"}
        assert float(noise.square().mean()) == pytest.approx(1, rel=1e-4)
    assert {p.additive for p in plans} == {"dns", "none"}


def test_unusable_strung_clips_are_counted_and_never_leave_speech_clean_unsaid(cuts, clips):
    options = {"distorter": Distorter.from_config(STRUNG), "streams": ["student"]}
    cuts = ListedCuts(list(cuts))
    reader = NoiseReader({"dns": str(clips)})
    reader.check_strung("dns")
    (clips / "b.wav").unlink()
    batch = SpeechDataset(cuts, **options, noises=reader)[0, 0, list(range(len(cuts)))]
    plan = batch.views["student"].plan
    assert {name for name, _ in batch.noise_lost} == {"b"} and {name for name, _ in batch.noise_silent} == {
        "d"
    }
    noisy = sum(p.additive == "dns" for p in plan)
    assert batch.noise_reads >= noisy + len(batch.noise_lost) + len(batch.noise_silent)
    (clips / "a.wav").unlink()
    batch = SpeechDataset(cuts, **options, noises=reader)[0, 0, list(range(len(cuts)))]
    assert batch.noise_reads == 20 * noisy == len(batch.noise_lost) + len(batch.noise_silent)
    view, distorter = batch.views["student"], options["distorter"]
    done = distorter.apply(batch.waveforms, batch.lengths, plan, view.noises)[1]
    assert {p.additive for p in done} == {"none"} and distorter.skipped_silent == noisy


def test_short_clips_are_left_out_in_one_line(clips, caplog):
    reader = NoiseReader({"dns": str(clips)})
    for _ in range(2):
        reader.check_strung("dns")
    said = "dns noise: 1 of 4 clips are shorter than 1 s (distortion.strung) and left out"
    assert [record.message for record in caplog.records] == [said]
    for name in "abd":
        (clips / f"{name}.wav").unlink()
    reader = NoiseReader({"dns": str(clips)})
    with pytest.raises(
        DataError, match=r"dns noise: no clip has 1 s, and distortion\.strung leaves out short"
    ):
        reader.check_strung("dns")


def silent_folder(folder: Path, *, sound_at_s: int | None = None) -> Path:
    """A folder with a minute of silence, in which there may be a click."""
    folder.mkdir()
    wave = np.zeros(60 * 16_000)
    if sound_at_s is not None:
        wave[sound_at_s * 16_000 :][:1600] = 0.1
    soundfile.write(folder / "clip.wav", wave, 16_000)
    return folder


def test_a_bad_line_of_noise_is_lost_noise(manifest):
    manifest.write_text(manifest.read_text().splitlines()[0] + "\nbroken\n")
    reader = NoiseReader({"musan": str(manifest)})
    plan = dataclasses.replace(draw(DistortionConfig(), "u", (0,)), additive="musan", noise_choice=0.9)
    noise = reader.noise(plan, 800)
    assert noise is not None and not noise.any()
    assert reader.take_lost() == [("line 2 of cuts.jsonl", f"{manifest}, line 2: not valid JSON")]


def test_no_utterance_is_its_own_noise_and_all_others_are_equally_likely(cuts):
    reader, speech = NoiseReader({"speech": ListedCuts(list(cuts))}), list(cuts)
    own = speech[3].id
    draws = (np.arange(6000) + 0.5) / 6000
    plans = [plan_of(additive="speech", utterance_id=own, noise_choice=u) for u in draws.tolist()]
    chosen = [reader.noise_clips(plan, 100)[0][0].id for plan in plans]
    counts = {cut.id: chosen.count(cut.id) for cut in speech}
    assert counts.pop(own) == 0
    expected = 6000 / (len(speech) - 1)
    assert all(abs(count - expected) <= len(speech) for count in counts.values())
    # A stranger gets any of them, as with all other noise.
    strangers = [reader.noise_clips(replace(plan, utterance_id="v"), 100)[0][0].id for plan in plans]
    assert strangers == [speech[int(u * len(speech))].id for u in draws]


@pytest.mark.parametrize("strung", [False, True])
def test_noise_that_happens_to_have_the_name_of_an_utterance_is_noise(cuts, strung):
    """Files called 001.wav are in many folders: what is drawn does not depend on their names."""
    clips = list(cuts)
    reader = NoiseReader({"musan": ListedCuts(clips)})
    plan = plan_of(additive="musan", utterance_id="stranger", noise_choice=0.5, strung=strung)
    expected = reader.noise(plan, 30_000)
    for cut in clips:
        found = reader.noise(replace(plan, utterance_id=cut.id), 30_000)
        assert found is not None and expected is not None and torch.equal(found, expected)


def test_strung_speech_leaves_the_utterance_out(cuts):
    long = [cut for cut in cuts if cut.duration >= 1][:3]
    reader = NoiseReader({"speech": ListedCuts(long)})
    for seed in range(30):
        plan = plan_of(additive="speech", utterance_id=long[0].id, strung=True, string_seed=seed)
        used = {cut.id for cut, _ in reader.noise_clips(plan, 60_000)}
        assert used and long[0].id not in used


def test_one_utterance_alone_has_no_other_for_noise(cuts):
    reader = NoiseReader({"speech": ListedCuts(list(cuts)[:1])})
    with pytest.raises(DataError, match="speech noise: u00 is the only one, and cannot be its own noise"):
        reader.noise(plan_of(additive="speech", utterance_id="u00"), 100)
