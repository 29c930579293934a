"""What outputs are judged by."""

import pytest
import torch
import torch.nn.functional as F
from lhotse import MonoCut

from distill.analysis.models import OurModel
from distill.analysis.probes.judges import DistanceJudge, ErrorJudge, LossJudge, Speech
from distill.errors import UserError
from distill.hubert import HubertEncoder
from distill.objective import distillation_loss
from distill.student import Student
from tests.analysis.probes.stand_ins import StandIn, cut_of

LENGTHS = torch.tensor([8000, 6000])
WAVEFORMS = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
CUTS = [MonoCut(id=name, start=0, duration=0.5, channel=0) for name in "ab"]
SPEECH = Speech(CUTS, WAVEFORMS, LENGTHS)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return OurModel(HubertEncoder.from_preset("mini", layers=3), "t")


def test_distances_of_the_valid_frames(teacher):
    judge = DistanceJudge(teacher)
    clean = judge.reference(SPEECH)
    with teacher.injected("2", lambda states: states * 1.5):
        found = judge.scores(SPEECH, clean)
        other = teacher.activations(WAVEFORMS, LENGTHS, ["3"]).valid("3")
    for scores, a, b in zip(found, clean, other, strict=True):
        assert scores["distance"] == (pytest.approx(float((a - b).norm() / a.norm())), 1.0)
        assert scores["cosine"] == (pytest.approx(float(F.cosine_similarity(a, b).mean()), rel=1e-5), 1.0)


def test_the_loss_is_that_of_training(teacher):
    student = Student.from_teacher(teacher.encoder, layers=2, targets=(2, 3)).eval()
    judge = LossJudge(OurModel(student, "s"), teacher)
    found = judge.scores(SPEECH, judge.reference(SPEECH))
    out, features = student(WAVEFORMS, LENGTHS), teacher.encoder(WAVEFORMS, LENGTHS).features
    loss = distillation_loss(out.predictions, torch.stack([features[2], features[3]], dim=1), out.lengths)
    sums, frames = (sum(part) for part in zip(*(each["loss"] for each in found), strict=True))
    assert sums / frames == pytest.approx(float(loss.total), rel=1e-5)


def test_teachers_that_do_not_belong_to_the_student(teacher):
    student = OurModel(Student.from_teacher(teacher.encoder, layers=2, targets=(3,)), "s")
    with pytest.raises(UserError, match="s predicts layer 3, which t does not have"):
        LossJudge(student, OurModel(HubertEncoder.from_preset("mini", layers=2), "t"))
    judge = LossJudge(student, OurModel(HubertEncoder.from_preset("mini", layers=3, dim=64), "t"))
    with pytest.raises(UserError, match=r"s is not a student of t: frames and features \(24, 128\) against"):
        judge.scores(SPEECH, judge.reference(SPEECH))
    with pytest.raises(UserError, match="t has no prediction heads"):
        LossJudge(teacher, teacher)


def test_errors_of_recognisers(tmp_path):
    judge = ErrorJudge(StandIn())
    cuts = [cut_of("u", 0.1 * torch.randn(8000), "AB CD", tmp_path)]
    (found,) = judge.scores(Speech(cuts, WAVEFORMS[:1], LENGTHS[:1]), judge.reference(SPEECH))
    assert found["wer"][1] == 2 and set(found) == set(judge.metrics)
    judge.check(cuts)
