"""Recognition of perturbed speech: the same audio for all, complete, continued, and measured with care."""

import json
import logging

import pytest
import torch
from lhotse import CutSet
from lhotse.utils import fastcopy

from distill.analysis.probes.adversarial import Fgsm
from distill.analysis.probes.perturbations import ChunkCount, Clean, Speed, WhiteNoise
from distill.analysis.probes.waveform import choose_utterances, probe_waveform
from distill.analysis.probes.waveform_rows import predictions_of
from distill.downstream.bootstrap import error_rate, interval, read_outcomes
from distill.errors import DataError, UsageError, UserError
from tests.analysis.probes.stand_ins import StandIn, cut_of

RATE = 16_000


@pytest.fixture(scope="module")
def recognisers():
    return [StandIn(), StandIn(seed=1, name="other")]


@pytest.fixture(scope="module")
def cuts(tmp_path_factory):
    """Five utterances: one is silent, one so short that at twice the speed nothing is left."""
    folder = tmp_path_factory.mktemp("speech")
    generator = torch.Generator().manual_seed(0)
    samples = [0.1 * torch.randn(n_samples, generator=generator) for n_samples in (9000, 7000, 8000, 500)]
    samples.append(torch.zeros(6000))
    texts = ["AB CD", "EFG", "A B", "DAB FED CAB", "BAD"]
    return [cut_of(f"u{n}", s, t, folder) for n, (s, t) in enumerate(zip(samples, texts, strict=True))]


def test_utterances_are_chosen_by_hash(cuts):
    chosen = choose_utterances(CutSet.from_cuts(cuts), 3)
    assert chosen == choose_utterances(CutSet.from_cuts(reversed(cuts)), 3)
    assert len(chosen) == 3 and [c.id for c in chosen] == sorted(c.id for c in chosen)
    assert (
        len(choose_utterances(CutSet.from_cuts(cuts), None))
        == len(choose_utterances(CutSet.from_cuts(cuts), 9))
        == 5
    )
    others = [choose_utterances(CutSet.from_cuts(cuts), 3, seed=seed) for seed in range(1, 5)]
    assert any(other != chosen for other in others)


def test_rows_have_errors_intervals_times_and_what_was_heard(recognisers, cuts, tmp_path):
    perturbations = [Clean(), WhiteNoise(0.5), Speed(200), Fgsm(20.0)]
    rows = probe_waveform(recognisers, cuts, perturbations, out=tmp_path)
    assert len(rows) == 8 and rows == json.loads((tmp_path / "analysis.json").read_text())["rows"]
    for row in rows:
        assert row["wer_low"] <= row["wer"] <= row["wer_high"] and "cer" in row
        assert 0 < row["time_median_s"] < 10 and row["utterances"] == 5 and "thread" in row["machine"]
        outcomes = read_outcomes(predictions_of(tmp_path, row))
        assert error_rate(outcomes) == row["wer"]
        assert interval([[outcomes]]) == (row["wer_low"], row["wer_high"])
    audio = {(row["perturbation"], row["model"]): row["audio"] for row in rows}
    for name in ("clean", "white_noise", "speed"):
        assert audio[name, "stand-in"] == audio[name, "other"]
    assert audio["fgsm", "stand-in"] != audio["fgsm", "other"]
    by_name = {row["perturbation"]: row for row in rows}
    assert by_name["white_noise"]["snr_db"] == pytest.approx(3.01, abs=0.2)
    assert by_name["fgsm"]["snr_db"] == pytest.approx(20, abs=0.05)
    assert by_name["clean"]["snr_db"] is None and by_name["speed"]["snr_db"] is None
    assert [by_name[name]["unchanged"] for name in ("clean", "white_noise", "speed", "fgsm")] == [5, 1, 0, 1]


def test_what_is_too_short_or_silent_is_counted_and_said(recognisers, cuts, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        row, *_ = probe_waveform(recognisers, cuts, [Speed(200), WhiteNoise(0.1)], out=tmp_path)
    assert (row["no_frames"], row["silent"]) == (1, 1)
    assert "speed 200: u3 is without a frame: all that was said counts as missing" in caplog.text
    assert (
        caplog.text.count("silent") == 1
        and "u4 is silent: no noise has a level relative to it" in caplog.text
    )
    table = predictions_of(tmp_path, row)
    assert read_outcomes(table)["u3"] == (3, 3)  # all words deleted
    columns, *lines = (line.split("\t") for line in table.read_text().splitlines())
    deleted = dict(zip(columns, lines[3], strict=True))
    assert (deleted["truth"], deleted["prediction"], deleted["time_s"]) == ("DAB FED CAB", "", "")
    assert (deleted["cer_errors"], deleted["cer_count"]) == ("11", "11")


def test_results_do_not_depend_on_other_utterances_models_or_values(recognisers, cuts):
    def errors(models, speech, *perturbations):
        rows = probe_waveform(models, speech, perturbations)
        return [(r["wer"], r["cer"], r["audio"]) for r in rows if r["model"] == "other" and r["value"] == 0.3]

    first = errors(recognisers, cuts[:3], WhiteNoise(0.3))
    assert first == errors(recognisers[1:], cuts[:3], WhiteNoise(0.9), WhiteNoise(0.3))
    alone = [errors(recognisers, [cut], WhiteNoise(0.3))[0] for cut in cuts[:3]]
    words = [2, 1, 2]
    total = sum(wer * count for (wer, _, _), count in zip(alone, words, strict=True)) / sum(words)
    assert first[0][0] == pytest.approx(total)


def test_what_was_measured_is_not_measured_again(recognisers, cuts, tmp_path, monkeypatch):
    probe_waveform(recognisers[:1], cuts, [WhiteNoise(0.3)], out=tmp_path)
    heard = []
    for each in recognisers:
        outputs = each.outputs
        monkeypatch.setattr(each, "outputs", lambda *a, n=each.name, o=outputs: heard.append(n) or o(*a))
    rows = probe_waveform(recognisers, cuts, [WhiteNoise(0.3), ChunkCount(10)], out=tmp_path)
    assert [(row["model"], row["perturbation"]) for row in rows] == [
        ("stand-in", "white_noise"),
        ("other", "white_noise"),
        ("stand-in", "chunk_count"),
        ("other", "chunk_count"),
    ]
    assert 2 * heard.count("stand-in") == heard.count("other")


def test_a_folder_is_of_one_kind_of_everything(recognisers, cuts, tmp_path):
    probe_waveform(recognisers[:1], cuts, [WhiteNoise(0.3)], out=tmp_path)
    with pytest.raises(UserError, match="other settings \\(speech; truths; utterances\\)"):
        probe_waveform(recognisers, cuts[:3], [WhiteNoise(0.3)], out=tmp_path)
    with pytest.raises(UserError, match="white_noise with level 1 of .*, not level 2"):
        probe_waveform(recognisers, cuts, [WhiteNoise(0.5, level=2)], out=tmp_path)
    with pytest.raises(UserError, match="another model by the name stand-in"):
        probe_waveform([StandIn(seed=5)], cuts, [WhiteNoise(0.3)], out=tmp_path)
    file = tmp_path / "analysis.json"
    file.write_text(file.read_text().replace('"audio": "', '"audio": "0'))
    with pytest.raises(UserError, match="white_noise 0.3 is other audio now than stand-in heard"):
        probe_waveform(recognisers, cuts, [WhiteNoise(0.3)], out=tmp_path)
    file.write_text(file.read_text().replace('"metric": "wer"', '"metric": "per"'))
    with pytest.raises(UserError, match="has the per of stand-in, not wer"):
        probe_waveform(recognisers, cuts, [WhiteNoise(0.3)], out=tmp_path)


def test_models_and_speech_must_fit(recognisers, cuts, tmp_path):
    classifier = StandIn(name="classifier")
    classifier.metrics = ("error",)
    with pytest.raises(
        UsageError, match="stand-in is scored by wer, classifier by error: probe them one after"
    ):
        probe_waveform([recognisers[0], classifier], cuts, [Clean()])
    with pytest.raises(DataError, match="are both called u1"):
        probe_waveform(recognisers, [*cuts, fastcopy(cuts[1])], [Clean()])
    with pytest.raises(DataError, match="x has no transcript"):
        probe_waveform(recognisers, [cut_of("x", torch.randn(4000), None, tmp_path)], [Clean()])
