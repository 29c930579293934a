"""Which terms are on, what they add to Eq. 2 and to the log, and what is refused."""

import pytest
import torch
from torch.utils.data import DataLoader

from distill.distillation import Distillation
from distill.errors import ConfigError
from distill.hubert import HubertEncoder
from distill.objective import Seen, Terms, distillation_loss
from distill.objective.correlation import correlation_loss
from distill.optim import OptimConfig
from distill.options import (
    CorrelationConfig,
    EnhancementConfig,
    ObjectiveConfig,
    RelationsConfig,
    UnitsConfig,
)
from distill.student import Student
from distill.waveforms import pad
from tests.distill.ddp_worker import SMALL, make_batches, make_module, make_trainer

UNITS = UnitsConfig(weight=0.5, codebook="given below", layer=2, dim=8)
EACH = {
    "input": ObjectiveConfig(input=0.5),
    "correlation": ObjectiveConfig(correlation=CorrelationConfig(weight=2.0)),
    "relations": ObjectiveConfig(relations=RelationsConfig(weight=2.0)),
    "units": ObjectiveConfig(units=UNITS),
    "enhancement": ObjectiveConfig(enhancement=EnhancementConfig(weight=1.0, dim=4, layers=1)),
    "enhancement of the cnn": ObjectiveConfig(
        enhancement=EnhancementConfig(weight=1.0, dim=4, layers=1, place="cnn")
    ),
}
CODEBOOK = torch.randn(5, SMALL["dim"], generator=torch.Generator().manual_seed(0))


def make(dat: bool = False, accumulate: int = 1, **options):
    """A module as `ddp_worker` makes it, with units."""
    return make_module(dat, accumulate, codebook=CODEBOOK, **options)


def seen_of(module, batch) -> Seen:
    """A batch without distortions, as the terms see it."""
    features, asked = module.teacher_features(batch.waveforms, batch.lengths), module.terms.asks(batch)
    student = module.student(batch.waveforms, batch.lengths, **asked)
    pitched = torch.zeros(len(batch), dtype=torch.bool)
    return Seen(student, module._predicted(features), features, batch, batch.waveforms, pitched, asked)


def logged(module, batch) -> dict[str, float]:
    trainer = make_trainer(max_steps=1)
    trainer.fit(module, DataLoader([batch], batch_size=None))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_nothing_is_on_unless_asked_for():
    module = make_module(dat=False)
    assert ObjectiveConfig().terms_on() == {} and not list(module.terms.parameters())
    loss = torch.tensor(1.7)
    total, parts = module.terms(loss, seen_of(module, make_batches(1)[0]), n_frames=1.0)
    assert torch.equal(total, loss) and parts == {}
    assert "train/objective" not in logged(module, make_batches(1)[0])


@pytest.mark.parametrize("regression", [1.0, 0.0, 0.25])
def test_the_terms_are_summed_with_their_weights(regression):
    objective = ObjectiveConfig(
        regression=regression, input=0.5, correlation=CorrelationConfig(weight=2.0, self_correlation=0.1)
    )
    module = make_module(dat=False, cdm="none", objective=objective, cosine_weight=0.3)
    batch = make_batches(1)[0]
    seen = seen_of(module, batch)
    student, targets, features = seen.student, seen.targets, seen.features
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
    plain, other = make(dat), make(dat, objective=EACH[name])
    for module in (plain, other):
        logged(module, make_batches(1)[0])
    before, after = (module.student.encoder.cnn[0].conv.weight for module in (plain, other))
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
        seen = seen_of(module, batch)
        student, targets = seen.student, seen.targets
        n_frames = int(student.lengths.sum())
        value = 3.0 * float(correlation_loss(student.predictions, targets, student.lengths).total)
        total, frames = total + value * n_frames, frames + n_frames
    assert found["val/loss"] == pytest.approx(total / frames, rel=1e-4)


@pytest.mark.parametrize("name", EACH)
def test_with_regression_the_dev_loss_is_that_of_equation_2(name):
    found = []
    for options in ({}, {"objective": EACH[name]}):
        module = make(**options)
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


ALL = ObjectiveConfig(
    input=0.5,
    relations=EACH["relations"].relations,
    units=UNITS,
    enhancement=EACH["enhancement"].enhancement,
)
"""All that micro-batches may have."""


@pytest.mark.parametrize("dat", [False, True])
def test_micro_batches_add_up(dat):
    logs, weights = [], []
    for accumulate in (1, 3):
        module = make(dat, accumulate, weight=0.0, objective=ALL)
        trainer = make_trainer()
        trainer.fit(module, DataLoader(make_batches(), batch_size=None))
        logs.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        weights.append([p.detach() for part in (module.student, module.terms) for p in part.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert {"train/units", "train/units_accuracy", "train/relations", "train/enhancement"} < logs[0].keys()
    shared = [name for name in logs[0] if name.startswith("train/")]
    assert {n: logs[0][n] for n in shared} == pytest.approx({n: logs[1][n] for n in shared}, rel=1e-3)


def test_what_is_trained_with_the_student_moves_and_is_kept():
    module = make(objective=ALL)
    before = {name: p.detach().clone() for name, p in module.terms.named_parameters()}
    trainer = make_trainer(max_steps=3)
    trainer.fit(module, DataLoader(make_batches(3), batch_size=None))
    assert {"units.mask_embedding", "units.embeddings", "enhancement.mask.weight"} < before.keys()
    assert not any(torch.equal(p, before[name]) for name, p in module.terms.named_parameters())
    kept = module.state_dict()
    assert torch.equal(kept["terms.units.codebook"], CODEBOOK)


def test_masks_of_a_step_are_those_of_its_epoch_and_of_every_validation_the_same():
    module, batch = make(objective=EACH["units"]), make_batches(1)[0]
    masks = {}
    for epoch in (0, 1):
        batch.position = (epoch, 4)
        masks[epoch] = module.terms.asks(batch)["mask"]
        for part in batch.split(3):
            width = module.teacher.config.frames(part.waveforms.shape[1])
            rows = [batch.ids.index(name) for name in part.ids]
            assert torch.equal(module.terms.asks(part)["mask"], masks[epoch][rows, :width])
    assert not torch.equal(masks[0], masks[1])
    module.eval()
    dev = module.terms.asks(batch)["mask"]
    batch.position = (0, 0)
    assert torch.equal(module.terms.asks(batch)["mask"], dev)
    assert module.terms.n_masked(batch) == int(dev.sum())


def test_a_masked_student_hears_less():
    module, batch = make(objective=EACH["units"]), make_batches(1)[0]
    module.eval()
    heard = module.student(batch.waveforms, batch.lengths).hidden_states[0]
    masked = seen_of(module, batch).student.hidden_states[0]
    assert not torch.allclose(heard, masked)


@pytest.mark.parametrize(
    ("objective", "codebook", "message"),
    [
        (EACH["units"], torch.zeros(5, 7), "objective.units.codebook has centres of 7 features, .* have 32"),
        (EACH["units"], None, "objective.units needs a codebook"),
        (
            ObjectiveConfig(units=UnitsConfig(weight=1.0, codebook="x", layer=4)),
            CODEBOOK,
            "objective.units.layer is 4, the teacher has layers 1 to 3",
        ),
        (
            ObjectiveConfig(relations=RelationsConfig(weight=1.0, layers=(1, 2))),
            None,
            r"objective.relations.layers \[1, 2\]: name a layer of the teacher, 1 to 3, for each",
        ),
    ],
)
def test_what_these_models_cannot_have_is_refused(objective, codebook, message):
    with pytest.raises(ValueError, match=message):
        make_module(dat=False, objective=objective, codebook=codebook)


def test_a_spiral_has_other_masks():
    with pytest.raises(ValueError, match="objective.units masks the input of a HuBERT"):
        make(size="spiral", objective=EACH["units"])


@pytest.mark.parametrize("name", ["input", "correlation", "relations", "enhancement"])
def test_a_spiral_can_have_the_others(name):
    log = logged(make(size="spiral", objective=EACH[name]), make_batches(1)[0])
    assert log["train/objective"] > log["train/loss"]


@pytest.mark.parametrize("name", EACH)
def test_every_layer_that_is_needed_is_named(name):
    module = make(objective=EACH[name])
    assert set(module.student.targets) <= module.layers
    features = dict(enumerate(module.teacher_features(*_waves(make_batches(1)[0]))))
    seen = seen_of(module, make_batches(1)[0])
    seen.features = {layer: features[layer] for layer in module.layers}
    module.terms(torch.tensor(0.0), seen, 1.0)


def _waves(batch):
    return batch.waveforms, batch.lengths


@pytest.mark.parametrize("name", EACH)
def test_bfloat16_stays_near_single_precision(name):
    found = []
    for precision in ("32-true", "bf16-mixed"):
        module = make(objective=EACH[name], optim=OptimConfig(max_steps=1))
        trainer = make_trainer(max_steps=1, precision=precision)
        trainer.fit(module, DataLoader(make_batches(1), batch_size=None))
        found.append(float(trainer.callback_metrics["train/objective"]))
    assert found[0] == pytest.approx(found[1], rel=0.02)


SHAPES = {
    "mel": {"front": "mel"},
    "slim": {"front": "slim"},
    "thin and deep": {"front": "mel", "dim": 16, "layers": 3, "targets": "all"},
}
"""Of students that are not their teachers' first layers."""


@pytest.mark.parametrize("shape", SHAPES)
def test_other_students_can_have_every_term_that_fits_their_width(shape):
    torch.manual_seed(0)
    teacher = HubertEncoder.from_preset("mini", **SMALL)
    student = Student.from_teacher(teacher, **{"layers": 1, "targets": (1, 3), **SHAPES[shape]})
    for name, objective in EACH.items():
        if name == "input" and student.encoder.config.dim != teacher.config.dim:
            continue
        module = Distillation(teacher, student, None, objective=objective, codebook=CODEBOOK)
        seen = seen_of(module, make_batches(1)[0])
        total, parts = module.terms(torch.tensor(0.0), seen, float(seen.student.lengths.sum()))
        module.zero_grad()
        total.backward()
        gradients = [p.grad for p in student.encoder.parameters() if p.grad is not None]
        assert gradients and all(torch.isfinite(x).all() for x in gradients), name
        assert torch.isfinite(parts["objective"]) and float(parts["objective"].detach()) > 0, name
