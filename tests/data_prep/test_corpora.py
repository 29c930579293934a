"""Every corpus: what is found in its layout, against lhotse's recipes and against files written by hand."""

# pyright: reportGeneralTypeIssues=false
# (lhotse's sets can be iterated over, which their annotations do not say)

import json
import warnings
from collections import Counter

import numpy as np
import pytest
import soundfile
from lhotse import CutSet
from lhotse.recipes import prepare_librispeech, prepare_musan, prepare_timit
from lhotse.recipes.wham import prepare_wham

from distill.data.audio import read_audio
from distill.data.sources import open_cuts
from distill.data_prep import CORPORA, PUBLISHED, mini_layouts
from distill.data_prep.chime3 import normalise
from distill.data_prep.mini_files import write_lines, write_wav
from distill.downstream.probe import ProbeTask
from distill.errors import DataError
from tests.paths import ROOT


@pytest.fixture(scope="module")
def manifests(layouts, tmp_path_factory):
    """Manifest (as a list of cuts) by corpus and split; each corpus is prepared once."""
    out = tmp_path_factory.mktemp("manifests")
    for name, prepare in CORPORA.items():
        if name in PUBLISHED:
            prepare(layouts, out / name)
    return lambda corpus, split: list(CutSet.from_file(out / corpus / f"{split}.jsonl.gz"))


def noise(path, *, rate=16_000, channels=1, seconds=0.1):
    samples = 0.1 * np.random.default_rng(0).standard_normal((int(rate * seconds), channels))
    write_wav(path, samples, rate)


def prepared(corpus, root, out, **options):
    """{split: cuts}."""
    result = CORPORA[corpus](root, out, **options)
    names = [split.split.name for split in result.results]
    return {name: list(CutSet.from_file(out / f"{name}.jsonl.gz")) for name in names}


def spoken(cut):
    (segment,) = cut.supervisions
    return segment


# All of them


@pytest.mark.parametrize("corpus", PUBLISHED)
def test_every_split_of_every_layout_is_found_and_loads_at_16_khz(manifests, corpus):
    for split in PUBLISHED[corpus].splits:
        cuts = manifests(corpus, split.name)
        assert cuts, split.name
        assert len({cut.id for cut in cuts}) == len(cuts)
        samples = cuts[0].load_audio()
        assert samples.shape == (1, cuts[0].num_samples)
        assert cuts[0].sampling_rate == 16_000
        assert np.abs(samples).max() > 1e-3


@pytest.mark.parametrize("corpus", ["speech_commands", "fluent_commands", "iemocap"])
def test_classes_are_where_the_linear_probe_looks(manifests, corpus):
    cuts = manifests(corpus, PUBLISHED[corpus].splits[0].name)
    task = ProbeTask(cuts, cuts, cuts)
    assert len({task.label(cut) for cut in cuts}) >= 4


def test_manifests_open_and_read_as_training_does(layouts, tmp_path):
    CORPORA["wham"](layouts, tmp_path, splits=["tr"])
    (cut, *_) = open_cuts(tmp_path / "tr.jsonl.gz")
    both = soundfile.read(cut.recording.sources[0].source)[0]
    assert both.shape[1] == 2
    np.testing.assert_allclose(read_audio(cut).numpy(), both[:, 0], atol=1e-4)  # the first, not the mean


def test_mini_layouts_is_a_corpus_without_a_root(tmp_path):
    pytest.importorskip("espeakng_loader")
    assert CORPORA["mini_layouts"](None, tmp_path) == tmp_path
    home = tmp_path / "speech_commands_v0.01"
    before = {path.relative_to(tmp_path): path.read_bytes() for path in home.rglob("*.wav")}
    CORPORA["mini_layouts"](None, tmp_path)  # the same files with the same samples
    assert before == {path.relative_to(tmp_path): path.read_bytes() for path in home.rglob("*.wav")}
    size_mb = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) / 1e6
    assert size_mb < 25


def test_layouts_need_a_known_name(tmp_path):
    with pytest.raises(ValueError, match="corpus must be one of librispeech, "):
        mini_layouts.write_layout("switchboard", tmp_path, tmp_path)


# Against lhotse's recipes


def test_librispeech_is_what_lhotse_finds(layouts, manifests):
    theirs = prepare_librispeech(layouts / "LibriSpeech")
    assert set(theirs) == {
        s.name for name in ("librispeech", "mini_librispeech") for s in PUBLISHED[name].splits
    }
    for split, parts in theirs.items():
        corpus = "mini_librispeech" if split in ("train-clean-5", "dev-clean-2") else "librispeech"
        ours = {cut.id: cut for cut in manifests(corpus, split)}
        assert set(ours) == set(parts["recordings"].ids)
        for segment in parts["supervisions"]:
            cut, recording = ours[segment.id], parts["recordings"][segment.id]
            assert (spoken(cut).text, spoken(cut).speaker) == (segment.text, segment.speaker)
            assert spoken(cut).text.isupper()
            assert cut.duration == recording.duration
            assert cut.recording.sources[0].source == str(recording.sources[0].source)
            words = [item for item in segment.alignment["word"] if item.symbol]
            assert spoken(cut).alignment["word"] == words
            assert " ".join(item.symbol for item in words) == segment.text


def test_no_speaker_of_librispeech_layouts_is_in_two_splits(manifests):
    names = [split.name for split in PUBLISHED["librispeech"].splits]
    speakers = [{spoken(cut).speaker for cut in manifests("librispeech", name)} for name in names]
    assert sum(map(len, speakers)) == len(set().union(*speakers)) == 9 + 2 + 3


def test_musan_is_what_lhotse_finds(layouts, manifests):
    theirs = prepare_musan(layouts / "musan")
    expected = {(r.id, r.duration, kind) for kind, parts in theirs.items() for r in parts["recordings"]}
    assert {(c.id, c.duration, c.custom["kind"]) for c in manifests("musan", "all")} == expected
    assert {kind for _, _, kind in expected} == {"music", "noise", "speech"}


def test_wham_is_what_lhotse_finds(layouts, manifests):
    for split, parts in prepare_wham(layouts / "wham_noise").items():
        theirs = {recording.id: recording.duration for recording in parts["recordings"]}
        assert {cut.id: cut.duration for cut in manifests("wham", split)} == theirs


def test_timit_is_what_lhotse_finds_without_the_dialect_sentences(layouts, manifests, tmp_path):
    (tmp_path / "data").symlink_to(layouts / "TIMIT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = prepare_timit(tmp_path, num_phones=39)
    for split in ("train", "dev", "test"):
        segments = {s.id: s for s in theirs[split.upper()]["supervisions"] if "-SA" not in s.id}
        ours = {cut.id: cut for cut in manifests("timit", split)}
        assert set(ours) == set(segments)
        for name, segment in segments.items():
            mine = spoken(ours[name])
            assert (mine.text, mine.speaker, mine.duration) == (
                segment.text,
                segment.speaker,
                segment.duration,
            )
            for tier in ("word", "phone"):
                expected = [i for i in segment.alignment[tier] if i.symbol]
                found = mine.alignment[tier]
                assert [i.symbol for i in found] == [i.symbol for i in expected]
                np.testing.assert_allclose([i.start for i in found], [i.start for i in expected], atol=1e-6)
                np.testing.assert_allclose([i.end for i in found], [i.end for i in expected], atol=1e-6)


# Against files written by hand


def test_timit_in_lower_case_and_with_riff_copies(tmp_path):
    folder = tmp_path / "root" / "test" / "dr1" / "mdab0"
    for name in ("SI1039.WAV", "SI1039.WAV.wav", "sa1.wav"):
        noise(folder / name)
    write_lines(folder / "SI1039.TXT", ["0 1600 He took his mask."])
    write_lines(folder / "SI1039.WRD", ["320 800 he"])
    write_lines(folder / "SI1039.PHN", ["0 320 h#", "320 480 hv", "480 640 ax-h", "640 700 q", "700 800 tcl"])
    (cut,) = prepared("timit", tmp_path / "root", tmp_path / "out")["test"]
    assert (cut.id, spoken(cut).text) == ("MDAB0-SI1039", "He took his mask.")
    assert [item.symbol for item in spoken(cut).alignment["phone"]] == ["sil", "hh", "ah", "sil"]
    assert spoken(cut).alignment["phone"][1][:3] == ("hh", 0.02, 0.01)
    write_lines(folder / "SI1039.PHN", ["0 320 h#", "320 480 schwa"])
    with pytest.raises(DataError, match="SI1039.PHN: 'schwa' is not a phone"):
        prepared("timit", tmp_path / "root", tmp_path / "out")
    (folder / "SI1039.TXT").unlink()
    write_lines(folder / "SI1039.PHN", ["0 320 h#"])
    with pytest.raises(DataError, match="SI1039.TXT is missing"):
        prepared("timit", tmp_path / "root", tmp_path / "out")


@pytest.mark.parametrize(
    "written, normalised",
    [
        ('The man said ,COMMA <NOISE> "DOUBLE-QUOTE no .PERIOD', "THE MAN SAID COMMA DOUBLE QUOTE NO PERIOD"),
        ("It isn't O'Brien's twenty-one 'SINGLE-QUOTE", "IT ISN'T O'BRIEN'S TWENTY ONE SINGLE QUOTE"),
        ("*Corp.* [door_slam] A. T. and T. ~", "CORP A T AND T"),
        ("The dollar ' s  rise ?QUESTION-MARK", "THE DOLLAR S RISE QUESTION MARK"),
        ("", ""),
    ],
)
def test_chime3_text_becomes_librispeech_characters(written, normalised):
    assert normalise(written) == normalised


def test_chime3_takes_one_channel_of_real_evaluation_data(tmp_path):
    data = tmp_path / "root" / "CHiME3" / "data"
    audio = data / "audio/16kHz/isolated"
    for name in ("et05_bus_real/M05_440C0201_BUS.CH5", "et05_str_real/F06_440C0202_STR.CH5"):
        noise(audio / f"{name}.wav")
    for name in ("et05_bus_real/M05_440C0201_BUS.CH0", "et05_str_real/F06_440C0202_STR.CH0"):
        noise(audio / f"{name}.wav")
    noise(audio / "et05_bus_simu/M05_440C0201_BUS.CH5.wav")
    noise(audio / "dt05_bus_real/F01_050C0101_BUS.CH5.wav")
    notes = [
        {"speaker": "M05", "wsj_name": "440C0201", "environment": "BUS", "dot": "HELLO <NOISE>"},
        {"speaker": "F06", "wsj_name": "440C0202", "environment": "STR", "dot": "GOOD-BYE"},
    ]
    write_lines(data / "annotations/et05_real.json", [json.dumps(notes)])
    found = prepared("chime3", tmp_path / "root", tmp_path / "out")
    assert set(found) == {"et05_real_ch0", "et05_real_ch5"}
    first, second = found["et05_real_ch5"]
    assert (first.id, spoken(first).text, spoken(first).speaker) == (
        "F06_440C0202_STR.CH5",
        "GOOD BYE",
        "F06",
    )
    assert (second.custom["place"], spoken(second).text) == ("BUS", "HELLO")
    write_lines(data / "transcriptions/et05_real.dot_all", ["Other words (M05_440C0201_BUS)"])
    (cut,) = prepared("chime3", tmp_path / "root", tmp_path / "out")["et05_real_ch5"]
    assert spoken(cut).text == "OTHER WORDS"


def test_chime3_without_transcripts_says_so(tmp_path):
    noise(tmp_path / "root/data/audio/16kHz/isolated/et05_bus_real/M05_440C0201_BUS.CH5.wav")
    with pytest.raises(DataError, match="et05_real.dot_all: no such file, nor .*et05_real.json"):
        CORPORA["chime3"](tmp_path / "root", tmp_path / "out")


def test_speech_commands_follow_the_official_lists(tmp_path):
    home = tmp_path / "root"  # unpacked without a folder of its own
    for name in (
        "yes/aa_nohash_0",
        "yes/bb_nohash_0",
        "yes/cc_nohash_1",
        "bed/aa_nohash_0",
        "bed/bb_nohash_0",
    ):
        noise(home / f"{name}.wav")
    for name in ("running_tap", "white_noise"):
        noise(home / f"_background_noise_/{name}.wav", seconds=3.5)
    write_lines(home / "validation_list.txt", ["yes/bb_nohash_0.wav"])
    write_lines(home / "testing_list.txt", ["bed/bb_nohash_0.wav"])
    found = prepared("speech_commands", home, tmp_path / "out")
    labels = {split: Counter(cut.custom["label"] for cut in cuts) for split, cuts in found.items()}
    assert labels == {  # the test set was not downloaded
        "train": {"yes": 2, "_unknown_": 1, "_silence_": 6},
        "dev": {"yes": 1, "_silence_": 6},
        "testing_list": {"_unknown_": 1},
    }
    silence = [cut for cut in found["train"] if cut.custom["label"] == "_silence_"]
    assert [cut.start for cut in silence] == [0, 1, 2] * 2 and {cut.duration for cut in silence} == {1.0}
    assert [cut.id for cut in found["dev"] if cut.custom["label"] == "_silence_"] == [c.id for c in silence]
    assert "white_noise" in silence[5].id
    np.testing.assert_allclose(
        silence[5].load_audio()[0],
        soundfile.read(home / "_background_noise_/white_noise.wav")[0][32000:48000],
    )
    word = next(cut for cut in found["train"] if cut.id == "bed/aa_nohash_0")
    assert (spoken(word).text, spoken(word).speaker) == ("BED", "aa")


def test_speech_commands_test_set_beside_the_corpus(tmp_path):
    home, test = tmp_path / "speech_commands_v0.01", tmp_path / "speech_commands_test_set_v0.01"
    write_lines(home / "validation_list.txt", [])
    write_lines(home / "testing_list.txt", [])
    for name in ("go/aa_nohash_0", "_unknown_/dog_bb_nohash_0", "_silence_/0"):
        noise(test / f"{name}.wav")
    for root in (home, test, tmp_path):
        cuts = prepared("speech_commands", root, tmp_path / "out", splits=["test"])["test"]
        assert {cut.id: cut.custom["label"] for cut in cuts} == {
            "go/aa_nohash_0": "go",
            "_unknown_/dog_bb_nohash_0": "_unknown_",
            "_silence_/0": "_silence_",
        }
    unknown = next(cut for cut in cuts if "dog" in cut.id)
    assert (spoken(unknown).text, spoken(unknown).speaker) == ("DOG", "bb")


def test_fluent_commands_slots_and_their_join(tmp_path):
    home = tmp_path / "root"
    noise(home / "wavs/speakers/s1/ab-cd.wav")
    row = '0,wavs/speakers/s1/ab-cd.wav,s1,"Pause, please",deactivate,music,none'
    write_lines(home / "data/train_data.csv", [",path,speakerId,transcription,action,object,location", row])
    (cut,) = prepared("fluent_commands", home, tmp_path / "out")["train"]
    assert cut.custom == {
        "action": "deactivate",
        "object": "music",
        "location": "none",
        "label": "deactivate|music|none",
    }
    assert (cut.id, spoken(cut).text, spoken(cut).speaker) == ("ab-cd", "Pause, please", "s1")
    write_lines(home / "data/train_data.csv", [",path,transcription,action,object", "0,a,b,c,d"])
    with pytest.raises(DataError, match="train_data.csv: no column .speakerId., .location. in its header"):
        CORPORA["fluent_commands"](home, tmp_path / "out")


def test_slurp_links_requests_with_the_recordings_of_both_microphones(tmp_path):
    home = tmp_path / "root/slurp"
    for name in ("audio-1.flac", "audio-1-headset.flac", "audio--2.flac"):
        noise(home / "audio/slurp_real" / name)
    entry = {
        "slurp_id": 4489, "sentence": "wake me up at eight o'clock", "intent": "alarm_set", "action": "set",
        "scenario": "alarm", "tokens": [{"surface": "wake", "id": 0}], "entities": [],
    }  # fmt: skip
    first = entry | {"recordings": [{"file": "audio-1-headset.flac", "wer": 0}, {"file": "audio-1.flac"}]}
    second = entry | {"recordings": [{"file": "audio--2.flac"}, {"file": "audio-1.flac"}]}  # one of it twice
    write_lines(home / "dataset/slurp/devel.jsonl", [json.dumps(first), json.dumps(second)])
    cuts = {cut.id: cut for cut in prepared("slurp", tmp_path / "root", tmp_path / "out")["devel"]}
    assert set(cuts) == {"audio-1", "audio-1-headset", "audio--2"}
    assert cuts["audio-1"].custom == {"action": "set", "scenario": "alarm", "intent": "alarm_set"}
    assert spoken(cuts["audio--2"]).text == "wake me up at eight o'clock"
    assert spoken(cuts["audio--2"]).speaker is None
    metadata = {"4489": {"recordings": {"audio--2.flac": {"usrid": "FO-488"}}}}
    write_lines(home / "dataset/slurp/metadata.json", [json.dumps(metadata)])
    cuts = {cut.id: cut for cut in prepared("slurp", home, tmp_path / "out2")["devel"]}
    assert spoken(cuts["audio--2"]).speaker == "FO-488"
    write_lines(home / "dataset/slurp/devel.jsonl", [json.dumps(first), '{"sentence": "x"}'])
    with pytest.raises(DataError, match="devel.jsonl: line 2 is no entry of SLURP"):
        CORPORA["slurp"](home, tmp_path / "out")
    write_lines(home / "dataset/slurp/metadata.json", ["[]"])
    with pytest.raises(DataError, match="metadata.json: not SLURP's metadata"):
        CORPORA["slurp"](home, tmp_path / "out")


def test_iemocap_keeps_four_classes(tmp_path):
    home = tmp_path / "root" / "Session1"
    dialogue = "Ses01F_script01_1"
    emotions = {"F000": "neu", "F001": "exc", "M000": "hap", "M001": "fru", "M002": "xxx", "F002": "ang"}
    notes = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for turn, emotion in emotions.items():
        noise(home / f"sentences/wav/{dialogue}/{dialogue}_{turn}.wav")
        notes += [f"[6.2901 - 8.2357]\t{dialogue}_{turn}\t{emotion}\t[2.5000, 2.5000, 2.5000]"]
        notes += ["C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom  2;\t()", ""]
    write_lines(home / f"dialog/EmoEvaluation/{dialogue}.txt", notes)
    (home / f"dialog/EmoEvaluation/._{dialogue}.txt").write_bytes(b"\0\xff Mac")
    write_lines(
        home / f"dialog/transcriptions/{dialogue}.txt",
        [f"{dialogue}_F000 [006.2901-008.2357]: Excuse me.", f"{dialogue}_M000 [008-009]: Do you have it?"],
    )
    cuts = {cut.id[-4:]: cut for cut in prepared("iemocap", tmp_path / "root", tmp_path / "out")["session1"]}
    labels = {turn: cut.custom["label"] for turn, cut in cuts.items()}
    assert labels == {"F000": "neu", "F001": "hap", "M000": "hap", "F002": "ang"}
    assert cuts["F001"].custom["emotion"] == "exc"
    assert (spoken(cuts["F000"]).text, spoken(cuts["F000"]).speaker) == ("Excuse me.", "Ses01F")
    assert (spoken(cuts["M000"]).text, spoken(cuts["M000"]).speaker) == ("Do you have it?", "Ses01M")


def test_fsd50k_labels_and_a_missing_ground_truth(tmp_path):
    root = tmp_path / "root"
    for name in ("64760", "16399"):
        noise(root / f"FSD50K.dev_audio/{name}.wav", rate=44_100)
    rows = ['64760,"Electric_guitar,Guitar","/m/02sgy,/m/0342h",train', "16399,Rain,/m/06mb1,val"]
    write_lines(root / "FSD50K.ground_truth/dev.csv", ["fname,labels,mids,split", *rows])
    cuts = prepared("fsd50k", root, tmp_path / "out")["dev"]
    assert {cut.id: cut.custom["labels"] for cut in cuts} == {
        "64760": ["Electric_guitar", "Guitar"],
        "16399": ["Rain"],
    }
    (root / "FSD50K.ground_truth/dev.csv").unlink()
    cuts = prepared("fsd50k", root, tmp_path / "out")["dev"]
    assert {cut.id for cut in cuts} == {"64760", "16399"} and not cuts[0].custom


@pytest.mark.parametrize(
    "noises, rooms",
    [
        ("datasets/noise", "datasets/impulse_responses"),
        ("datasets_fullband/noise_fullband", "datasets_fullband/impulse_responses"),
        ("noise_fullband", "impulse_responses"),
    ],
)
def test_dns_layouts_and_the_noises_among_room_responses(tmp_path, noises, rooms):
    root = tmp_path / "root"
    noise(root / noises / "a.wav", rate=48_000)
    noise(root / noises / "b/a.wav")
    real = root / rooms / "SLR28/RIRS_NOISES"
    noise(root / rooms / "SLR26/simulated_rirs_16k/smallroom/Room001/Room001-00001.wav")
    noise(real / "simulated_rirs/smallroom/Room001/Room001-00001.wav")
    noise(real / "real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1_far_angla.wav", channels=8)
    noise(real / "real_rirs_isotropic_noises/RVB2014_type1_noise_largeroom1_1.wav", channels=8)
    noise(real / "pointsource_noises/noise-free-sound-0000.wav")
    found = prepared("dns", root, tmp_path / "out")
    assert {cut.id for cut in found["noise"]} == {"a", "b/a"}
    assert {cut.id for cut in found["rir"]} == {
        "SLR26/simulated_rirs_16k/smallroom/Room001/Room001-00001",
        "SLR28/RIRS_NOISES/simulated_rirs/smallroom/Room001/Room001-00001",
        "SLR28/RIRS_NOISES/real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1_far_angla",
    }
    assert {cut.load_audio().shape for cut in found["rir"]} == {(1, 1600)}


# The figures


def test_published_figures_agree_with_themselves():
    """Sums that the authors give, which a mistyped number would break."""
    files = {name: [split.files or 0 for split in corpus.splits] for name, corpus in PUBLISHED.items()}
    assert sum(files["librispeech"][:3]) == 281_241  # the 960 hours
    assert sum(files["iemocap"]) == 5531
    assert sum(files["fsd50k"]) == 51_197
    assert sum(files["fluent_commands"]) == 30_043
    found = sum(files["speech_commands"][number] for number in (0, 1, 3))
    assert found == 64_727 + 6  # the background noises are in train and in dev
    assert files["timit"] == [462 * 8, 50 * 8, 24 * 8]
    assert sum(split.hours or 0 for split in PUBLISHED["fsd50k"].splits) == pytest.approx(108.3)


def test_every_corpus_is_in_the_documentation():
    text = (ROOT / "docs" / "corpora.md").read_text()
    for name, corpus in PUBLISHED.items():
        assert f"## {corpus.title}" in text and f"distill data prepare {name} --root" in text
        assert corpus.source.split()[0] in text
        for split in corpus.splits:
            assert f"`{split.name}`" in text or name == "chime3"
            for figure in (split.files, split.hours):
                assert figure is None or f"{figure:,}".replace(",", " ") in text, (split.name, figure)
