"""Which terms are on, what they add to Eq. 2 and to the log, and what is refused."""

import pytest
import torch
from torch.utils.data import DataLoader

from distill.errors import ConfigError
from distill.hubert import HubertEncoder
from distill.objective import Terms, distillation_loss
from distill.objective.correlation import correlation_loss
from distill.options import CorrelationConfig, ObjectiveConfig
from distill.waveforms import pad
from tests.distill.ddp_worker import SMALL, make_batches, make_module, make_trainer

EACH = {
    "input": ObjectiveConfig(input=0.5),
    "correlation": ObjectiveConfig(correlation=CorrelationConfig(weight=2.0)),
}


def step_of(module, batch):
    """Features of the teacher, targets, and the student of a batch without distortions."""
    features = module.teacher_features(batch.waveforms, batch.lengths)
    return module.student(batch.waveforms, batch.lengths), module._predicted(features), features


def logged(module, batch) -> dict[str, float]:
    trainer = make_trainer(max_steps=1)
    trainer.fit(module, DataLoader([batch], batch_size=None))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_nothing_is_on_unless_asked_for():
    module = make_module(dat=False)
    assert ObjectiveConfig().terms_on() == {} and not list(module.terms.parameters())
    loss = torch.tensor(1.7)
    total, parts = module.terms(loss, *step_of(module, make_batches(1)[0]), n_frames=1.0)
    assert torch.equal(total, loss) and parts == {}
    assert "train/objective" not in logged(module, make_batches(1)[0])


@pytest.mark.parametrize("regression", [1.0, 0.0, 0.25])
def test_the_terms_are_summed_with_their_weights(regression):
    objective = ObjectiveConfig(
        regression=regression, input=0.5, correlation=CorrelationConfig(weight=2.0, self_correlation=0.1)
    )
    module = make_module(dat=False, cdm="none", objective=objective, cosine_weight=0.3)
    batch = make_batches(1)[0]
    student, targets, features = step_of(module, batch)
    eq2 = distillation_loss(student.predictions, targets, student.lengths, cosine_weight=0.3).total
    start = distillation_loss(
        student.hidden_states[0][:, None], features[0][:, None], student.lengths, cosine_weight=0.3
    ).total
    found = correlation_loss(student.predictions, targets, student.lengths, self_correlation=0.1)
    expected = {
        "train/loss": eq2,
        "train/input": start,
        "train/correlation": found.total,
        "train/correlation_cross": found.cross,
        "train/correlation_self": found.own,
        "train/objective": regression * eq2 + 0.5 * start + 2.0 * found.total,
    }
    log = logged(module, batch)
    assert {name: log[name] for name in expected} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-4
    )


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("dat", [False, True])
def test_a_term_reaches_the_student(name, dat):
    plain, other = make_module(dat), make_module(dat, objective=EACH[name])
    for module in (plain, other):
        logged(module, make_batches(1)[0])
    before, after = (module.student.encoder.projection.weight for module in (plain, other))
    assert not torch.equal(before, after) and torch.isfinite(after).all()


def test_the_start_of_a_student_that_is_its_teacher_has_nothing_to_learn():
    """Nothing but the cosine's floor, -log sigmoid(1)."""
    module = make_module(dat=False, cdm="none", objective=ObjectiveConfig(input=1.0))
    module.student.encoder.load_state_dict(
        {k: v for k, v in module.teacher.state_dict().items() if k in module.student.encoder.state_dict()}
    )
    module.teacher.projection_norm = None
    floor = -torch.nn.functional.logsigmoid(torch.tensor(1.0))
    assert logged(module, make_batches(1)[0])["train/input"] == pytest.approx(float(floor), rel=1e-4)


def test_without_regression_the_dev_loss_is_that_of_the_terms():
    objective = ObjectiveConfig(regression=0.0, correlation=CorrelationConfig(weight=3.0))
    module, batches = make_module(dat=False, cdm="none", objective=objective), make_batches(2)
    trainer = make_trainer()
    (found,) = trainer.validate(module, DataLoader(batches, batch_size=None), verbose=False)
    total, frames = 0.0, 0
    for batch in batches:
        student, targets, _ = step_of(module, batch)
        n_frames = int(student.lengths.sum())
        value = 3.0 * float(correlation_loss(student.predictions, targets, student.lengths).total)
        total, frames = total + value * n_frames, frames + n_frames
    assert found["val/loss"] == pytest.approx(total / frames, rel=1e-4)


@pytest.mark.parametrize("name", EACH)
def test_with_regression_the_dev_loss_is_that_of_equation_2(name):
    found = []
    for options in ({}, {"objective": EACH[name]}):
        module = make_module(dat=False, **options)
        (metrics,) = make_trainer().validate(
            module, DataLoader(make_batches(2), batch_size=None), verbose=False
        )
        found.append(metrics)
    assert found[0] == found[1]


def test_a_batch_of_one_frame_has_no_correlation():
    module = make_module(dat=False, cdm="none", objective=EACH["correlation"])
    batch = make_batches(1)[0][:1]
    batch.waveforms, batch.lengths = pad([batch.waveforms[0, : module.teacher.config.min_samples]])
    with pytest.raises(ConfigError, match="objective.correlation: a batch of one frame"):
        logged(module, batch)


def test_micro_batches_are_refused_where_the_whole_batch_is_needed():
    with pytest.raises(ValueError, match=r"objective.correlation .* optim.accumulate=1, not 2"):
        make_module(dat=False, accumulate=2, objective=EACH["correlation"])


def test_inputs_of_two_widths_are_refused():
    narrow, wide = (HubertEncoder.from_preset("mini", **SMALL | {"dim": dim}).config for dim in (32, 64))
    with pytest.raises(ValueError, match=r"objective.input .* is 32 wide, the teacher's 64"):
        Terms(EACH["input"], 1.0, narrow, wide)
