"""Distortions in other people's pipelines: Dataset workers, lhotse cuts, recorded noise of another rate."""

import functools
import io
import pickle

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from distill.data.noise import NoiseReader
from distill.data.transforms import DistortTransform, distort_cuts
from distill.distortions import Distorter, DistortionConfig, additive

CLIPS = list(0.1 * torch.randn(3, 6000, generator=torch.Generator().manual_seed(1)))


def speech(n_samples: int = 4000, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))


def only(additive: str = "none", non_additive: str = "none", rir: bool = False) -> DistortionConfig:
    return DistortionConfig(additive=(additive,), non_additive=(non_additive,), rir=rir)


def test_equals_the_distorter():
    transform = DistortTransform("2-dist", {"musan": CLIPS[:1], "wham": CLIPS[1:]}, seed=3)
    distorter = Distorter.from_config("2-dist")
    seen = set()
    for number in range(40):
        x = speech(seed=number)
        plan = distorter.plan([f"u{number}"], seed=3, epoch=2)
        p = plan[0]
        clip = None
        if p.noise_corpus:
            clips = {"musan": CLIPS[:1], "wham": CLIPS[1:]}[p.noise_corpus]
            clip = clips[int(p.noise_choice * len(clips))]
            first = int(p.noise_offset * (6000 - 4000 + 1))
            clip = clip[first : first + 4000]
        expected, _ = distorter(x[None], None, plan, [clip])
        before = x.clone()
        y = transform(x, f"u{number}", epoch=2)
        assert torch.equal(y, expected[0]) and torch.equal(x, before)
        assert torch.equal(transform(x[None], f"u{number}", epoch=2), expected)
        seen |= {p.additive, p.non_additive}
    assert seen == {"musan", "wham", "gaussian", "reverb", "pitch", "band_reject", "none"}


@pytest.mark.parametrize("effect", ["clipping", "time_drop"])
def test_effects_outside_the_papers_mix(effect):
    config = only(non_additive=effect)
    distorter = Distorter.from_config(config)
    expected, _ = distorter(speech()[None], None, distorter.plan(["a"]))
    assert torch.equal(DistortTransform(config)(speech(), "a"), expected[0])
    assert not torch.equal(expected[0], speech())


def test_strung_clips_fill_the_utterance():
    clips = [torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in (16_000, 20_000, 9_000)]
    config = DistortionConfig(additive=("dns",), non_additive=("none",), snr_db=(5.0, 5.0), strung=True)
    x = speech(60_000)
    added = (DistortTransform(config, clips)(x, "a") - x).reshape(60, -1)
    assert (10 * (x.square().mean() / added.square().mean(1)).log10()).numpy() == pytest.approx(5, abs=1)
    with pytest.raises(ValueError, match="no clip has 1 s of dns"):
        DistortTransform(config, clips[2:])


def test_rooms_come_first():
    rirs = [torch.tensor([0.0, 1.0, 0.5]), torch.tensor([1.0, 0.0, 0.0, 0.7])]
    transform = DistortTransform("dns", CLIPS, rirs=rirs, split="test")
    dns = Distorter.from_config("dns", split="test")
    plan = dns.plan(["a"])
    clip = CLIPS[int(plan[0].noise_choice * 3)][int(plan[0].noise_offset * 2001) :][:4000]
    expected, _ = dns(speech()[None], None, plan, [clip], [rirs[int(plan[0].rir_choice * 2)]])
    assert torch.equal(transform(speech(), "a"), expected[0])


def test_without_an_id_every_call_is_another_draw_and_the_run_can_be_repeated():
    x = speech()
    first, second = (DistortTransform(only("gaussian"), seed=1) for _ in range(2))
    run = [first(x) for _ in range(4)]
    assert all(not torch.equal(a, b) for i, a in enumerate(run) for b in run[:i])
    assert all(torch.equal(second(x), y) for y in run)
    assert not torch.equal(DistortTransform(only("gaussian"), seed=2)(x), run[0])


def test_a_copy_continues_where_the_original_was():
    transform = DistortTransform("2-dist", CLIPS)
    transform(speech())
    copy = pickle.loads(pickle.dumps(transform))
    assert torch.equal(copy(speech()), transform(speech()))


class Utterances(Dataset):
    """The same wave again and again, distorted by its index or by the call."""

    def __init__(self, transform: DistortTransform, named: bool):
        self.transform, self.named = transform, named

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(speech(), f"u{index}" if self.named else None)


def loaded(named: bool, workers: int, seed: int = 0) -> list[torch.Tensor]:
    data = Utterances(DistortTransform("2-dist", CLIPS), named)
    generator = torch.Generator().manual_seed(seed)
    return list(DataLoader(data, batch_size=None, num_workers=workers, generator=generator))


def test_workers_do_not_change_what_an_id_gets():
    alone, together = loaded(True, 0), loaded(True, 2)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_workers_do_not_repeat_each_other():
    data = Utterances(DistortTransform(only("gaussian")), named=False)
    loader = DataLoader(data, batch_size=None, num_workers=2, generator=torch.Generator().manual_seed(0))
    waves = [*loader, *loader]  # two epochs: fresh copies of the transform start counting again
    assert all(not torch.equal(a, b) for i, a in enumerate(waves) for b in waves[:i])
    again = loaded(False, 2), loaded(False, 2), loaded(False, 2, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(again[0], again[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(again[0], again[2], strict=True))


RANKS = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")


@pytest.mark.parametrize("name", [*RANKS, "torch.distributed"])
def test_processes_do_not_repeat_each_other(monkeypatch, name):
    for other in RANKS:
        monkeypatch.delenv(other, raising=False)
    data, drawn = Utterances(DistortTransform(only("gaussian")), named=False), []

    def draw() -> list[list[torch.Tensor]]:
        made = (DataLoader(data, None, num_workers=n, generator=torch.Generator()) for n in (2, 0))
        return [list(loader) for loader in made]

    alone = draw()
    data.transform.n_calls = 0
    for rank in range(3):
        if name == "torch.distributed":
            monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
            monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
        else:
            monkeypatch.setenv(name, str(rank))
        drawn.append(draw())
        data.transform.n_calls = 0
    for here, *there in zip(alone, *drawn, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(here, there[0], strict=True))  # the first: as one alone
        assert not any(torch.equal(a, b) for a, b in zip(there[0], there[1], strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(there[1], there[2], strict=True))


def test_a_worker_that_is_not_forked_is_of_the_process_that_sent_it(monkeypatch):
    transform = DistortTransform(only("gaussian"))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    sent, here = pickle.loads(pickle.dumps(transform)), transform(speech())
    monkeypatch.undo()
    assert torch.equal(sent(speech()), here)
    assert not torch.equal(DistortTransform(only("gaussian"))(speech()), here)


def test_a_name_is_the_same_in_every_process(monkeypatch):
    transform = DistortTransform("2-dist", CLIPS)
    alone = transform(speech(), "u")
    monkeypatch.setenv("RANK", "1")
    assert torch.equal(transform(speech(), "u"), alone)


def test_mistakes():
    with pytest.raises(ValueError, match="noises: the config asks for wham"):
        DistortTransform("2-dist", {"musan": CLIPS})
    with pytest.raises(ValueError, match="noises: the config asks for musan"):
        DistortTransform("2-dist")
    with pytest.raises(ValueError, match="rirs"):
        DistortTransform("dns", CLIPS)
    with pytest.raises(ValueError, match="unknown condition"):
        DistortTransform("noisy")
    with pytest.raises(ValueError, match="curriculum: a transform does not know how far"):
        DistortTransform({"curriculum": 0.5}, CLIPS)
    clean = DistortTransform(None)
    assert torch.equal(clean(speech()), speech())
    for shape in ((2, 50), (1, 1, 50), (0,)):
        with pytest.raises(ValueError, match="waveform must be"):
            clean(torch.zeros(shape))
    with pytest.raises(ValueError, match="floating-point samples within"):
        clean(torch.zeros(50, dtype=torch.int16))
    with pytest.raises(ValueError, match=r"noises\[1\] must be .* not empty, got \(0,\)$"):
        DistortTransform(only("musan"), [CLIPS[0], torch.zeros(0)])
    with pytest.raises(ValueError, match=r"noises\['musan'\]\[0\] must be .* got \(2, 50\)$"):
        DistortTransform(only("musan"), {"musan": [np.zeros((2, 50))]})
    with pytest.raises(ValueError, match=r"rirs\[0\] must be .* got \(\)$"):
        DistortTransform("dns", CLIPS, rirs=[1.0])  # pyright: ignore


def test_clips_come_in_any_form():
    """As torchaudio.load and soundfile.read give them, as one tensor, as one clip."""
    rooms = torch.rand(3, 200, generator=torch.Generator().manual_seed(0))
    expected = DistortTransform("dns", CLIPS, rirs=list(rooms))(speech(), "a")
    forms = [
        ([clip[None] for clip in CLIPS], rooms),
        ([clip.numpy() for clip in CLIPS], [room.numpy() for room in rooms]),
        (torch.stack(CLIPS), rooms[:, None]),
        (torch.stack(CLIPS).numpy(), rooms.numpy()),
        ({"dns": torch.stack(CLIPS)}, list(rooms)),
    ]
    for noises, rirs in forms:
        assert torch.equal(DistortTransform("dns", noises, rirs=rirs)(speech(), "a"), expected)
    one = [DistortTransform(only("musan"), form)(speech(), "a") for form in (CLIPS[:1], CLIPS[0])]
    assert torch.equal(*one)


def test_an_array_comes_back_as_an_array():
    transform = DistortTransform(only("gaussian"))
    expected = transform(speech(), "a").numpy()
    for wave in (speech().numpy(), speech()[None].numpy(), speech().double().numpy()):
        out = transform(wave, "a")
        assert isinstance(out, np.ndarray) and out.shape == wave.shape and out.dtype == np.float32
        np.testing.assert_array_equal(out.reshape(-1), expected)
    backwards = transform(speech().numpy()[::-1], "a")
    np.testing.assert_array_equal(backwards, transform(speech().flip(0), "a").numpy())


def cut_of(samples: np.ndarray, rate: int = 16_000, name: str = "a", **options):
    from lhotse import Recording, SupervisionSegment

    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="WAV", subtype="FLOAT")
    cut = Recording.from_bytes(stream.getvalue(), recording_id=f"rec-{name}").to_cut()
    cut.id = name
    cut.supervisions = [SupervisionSegment(f"s-{name}", f"rec-{name}", 0.1, 0.2, text="yes", **options)]
    return cut


def distorted(cuts: list, transform: DistortTransform, epoch: int | None = None) -> list:
    from lhotse import CutSet

    return list(distort_cuts(CutSet(cuts), transform, epoch))  # pyright: ignore


def test_cuts_are_distorted_in_memory_and_nothing_is_clipped():
    loud = 0.9 * torch.sin(torch.arange(16_000) / 20)
    cut = cut_of(loud.numpy()).truncate(offset=0.05, preserve_id=True)
    cut.custom = {"speaker": "x"}
    transform = DistortTransform(only("gaussian"), seed=5)
    (out,) = distorted([cut], transform, epoch=1)
    expected = transform(loud[800:], "a", epoch=1)
    assert np.array_equal(out.load_audio()[0], expected.numpy())
    assert np.abs(out.load_audio()).max() > 1
    assert (out.id, out.start, out.duration, out.sampling_rate) == ("a", 0, 0.95, 16_000)
    assert out.custom == {"speaker": "x"} and out.is_in_memory
    supervision = out.supervisions[0]
    assert (supervision.text, supervision.start) == ("yes", pytest.approx(0.05))
    still = cut.load_audio()
    assert still is not None and np.array_equal(still[0], loud[800:].numpy())


def test_cuts_of_other_rates_and_channels_come_out_mono_at_16_khz():
    from lhotse import validate

    stereo = 0.1 * np.random.default_rng(0).standard_normal((22_050, 2))
    cut = cut_of(stereo, rate=22_050, channel=[0, 1])
    (out,) = distorted([cut], DistortTransform(None))
    validate(out)
    assert out.load_audio().shape == (1, 16_000) and out.sampling_rate == 16_000


def test_a_cut_transform_for_lhotse_datasets():
    from lhotse import CutSet

    cuts = [cut_of(speech(seed=i).numpy(), name=f"u{i}") for i in range(3)]
    lazy = CutSet(cuts).repeat(2, preserve_id=True)  # each comes twice
    transform = functools.partial(distort_cuts, transform=DistortTransform(only("gaussian")))
    out = list(pickle.loads(pickle.dumps(transform))(lazy))
    assert [cut.id for cut in out] == ["u0", "u1", "u2"] * 2
    waves = [cut.load_audio() for cut in out]
    assert not np.array_equal(waves[0], waves[3])  # no epoch given: another draw
    fixed = [c.load_audio() for c in distorted(cuts + cuts, DistortTransform(only("gaussian")), epoch=0)]
    assert np.array_equal(fixed[0], fixed[3]) and not np.array_equal(fixed[0], fixed[1])


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_recorded_noise_is_resampled_when_needed(tmp_path, rate):
    hz, n = 1_000, 12_000
    tone = 0.3 * np.sin(2 * np.pi * hz * np.arange(2 * rate) / rate)
    soundfile.write(tmp_path / "tone.wav", tone, rate)
    distorter = Distorter.from_config(only("musan"))
    plan = distorter.plan(["a"])
    view = NoiseReader({"musan": str(tmp_path)}).view(plan, [n])
    x = speech(n)
    y, _ = distorter(x[None], None, plan, view.noises)
    added = (y[0] - x).double()
    snr = 10 * torch.log10(x.double().square().sum() / added.square().sum())
    assert float(snr) == pytest.approx(plan[0].snr_db, abs=0.1)
    spectrum = (added * torch.hann_window(n, dtype=torch.float64)).numpy()
    assert np.abs(np.fft.rfft(spectrum)).argmax() * 16_000 / n == pytest.approx(hz, abs=2)


def test_long_noise_is_cropped_at_a_seeded_place():
    ramp = torch.arange(1.0, 50_001.0)  # the value says where it was taken from
    transform = DistortTransform(only("musan"), [ramp])
    distorter = transform.distorter
    starts = set()
    for epoch in range(20):
        added = transform(speech(), "a", epoch) - speech()
        start = int(distorter.plan(["a"], epoch=epoch)[0].noise_offset * (50_000 - 4_000 + 1))
        expected = ramp[start : start + 4000]
        gain = additive.mix(speech()[None], None, [expected], [distorter.plan(["a"], epoch=epoch)[0].snr_db])
        torch.testing.assert_close(added, gain[0][0] - speech(), atol=1e-6, rtol=0)
        starts.add(start)
    assert len(starts) == 20 and min(starts) < 12_000 and max(starts) > 34_000
