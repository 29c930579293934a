"""`distill cca`: how much of sounds, phones and words each layer carries (Pasad et al. 2023).

Every layer is compared with four views: `local`, the output of the CNN (of SPIRAL: of
block 1's convolutions, before any transformer); `mel`, filter banks; `phone` and
`word`, labels of segments. Three samples of the speech are drawn; each is used with three choices of
training, dev and test part, so that a score is the mean of nine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from lhotse.cut import Cut
from torch import Tensor
from tqdm import tqdm

from distill import markdown
from distill.analysis.cca.alignments import Alignments, read_alignments
from distill.analysis.cca.collecting import Collected, FrameView, Wanted, collect, read_wave
from distill.analysis.cca.correlations import Definition
from distill.analysis.cca.mel import mel_at
from distill.analysis.cca.moments import Moments
from distill.analysis.cca.phones import fold_words, map_phones
from distill.analysis.cca.ranking import scores_of
from distill.analysis.cca.scoring import score_fold
from distill.analysis.cca.segments import (
    CHOICES,
    PARTS,
    PER_PHONE,
    PER_WORD,
    WORDS,
    Instance,
    instances_of,
    one_hot,
    rare_labels,
    sample_instances,
    sample_utterances,
    split_by_label,
    split_by_utterance,
)
from distill.analysis.layered import LayeredModel
from distill.analysis.record import Record
from distill.data.audio import samples_at_16k
from distill.data.contents import contents_of
from distill.data.sources import check_names, open_cuts
from distill.errors import UsageError, UserError, listed
from distill.hashing import hash_lines
from distill.hubert import HubertConfig
from distill.preflight.survey import check_files
from distill.waveforms import pad

logger = logging.getLogger(__name__)

FRAME_VIEWS: dict[str, Callable[..., Tensor]] = {
    "local": lambda wave, layers, model, step: layers[model.local],
    "mel": lambda wave, layers, model, step: mel_at(wave, step),
}
LABEL_VIEWS = {"phone": "phones", "word": "words"}
"""Views of labels, and the option that says where these are."""
VIEWS = (*FRAME_VIEWS, *LABEL_VIEWS)


@dataclass(frozen=True, kw_only=True)
class CcaOptions:
    """What is compared, and on how much speech. Defaults: Pasad et al. 2023."""

    views: tuple[str, ...] = ("local", "mel")
    phones: str = "supervisions"
    """Where the times of phones are: "supervisions" of the manifest, a folder of TextGrids or a CTM file."""
    words: str = "supervisions"
    """Where those of words are."""
    phone_map: str | None = None
    """File of lines `SYMBOL <tab> PHONE`, for phones of other alphabets or languages (`map_phones`)."""
    layers: tuple[str, ...] | None = None
    """None: all, every convolution too."""
    utterances: int = 500
    """Of a sample for the views of frames."""
    most_utterances: int | None = None
    """Use only so many, chosen at random, for all views; None: all."""
    samples: int = 3
    """Of the speech; those of phones and words have at most 200 of each phone, 15 of each of 500 words."""
    definition: Definition = "centred"
    """How PWCCA weights directions: "centred" or "reference" (`pwcca`)."""
    seed: int = 0
    """Of samples and parts."""

    def __post_init__(self) -> None:
        for view in self.views:
            if view not in VIEWS:
                raise UsageError(f"unknown view {view!r}: choose from {', '.join(VIEWS)}")
        for name in ("utterances", "samples", "most_utterances"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")


@dataclass(frozen=True)
class Plan:
    """What is drawn from the speech, the same for all models."""

    pieces: dict[str, list[tuple[int, int]]]
    """By utterance, (sample, piece) for the views of frames; pieces 2 k and 2 k + 1 are dev and test of split
    k, the last one is always for training."""
    instances: dict[str, list[Instance]]
    """By view of labels, those of all samples."""
    samples: dict[str, list[slice]]
    """By view of labels, where the instances of each sample are."""


def analyse(models: Sequence[LayeredModel], speech: str, options: CcaOptions, out: Path) -> Record:
    """Compare every layer of some models with the views; a model whose scores the folder has is left out.

    Args:
        models: in the order of the figures.
        speech: manifest, TSV or folder of audio.
        options: what is compared, and on how much.
        out: folder for `analysis.json`.

    Raises:
        UserError: for layers, alignments or speech that are missing or too few.
    """
    cuts: list[Any] = list(open_cuts(speech))
    check_names(cuts, speech)
    if options.most_utterances is not None:
        chosen = set(
            sample_utterances((cut.id for cut in cuts), most=options.most_utterances, seed=options.seed)
        )
        cuts = [cut for cut in cuts if cut.id in chosen]
    for model in models:
        model.check(options.layers or ())
        if "local" in options.views and model.local not in model.layers:
            raise UsageError(
                f"{model.name} shows no layer {model.local} to compare with: leave out --view local"
            )
    check_files(cuts, "the speech")
    alignments = {view: _alignments(view, cuts, options) for view in options.views if view in LABEL_VIEWS}
    plans: dict[int, Plan] = {}
    settings = {
        "speech": contents_of(sorted(cuts, key=lambda cut: cut.id), in_full=True),
        **{view: hash_lines(map(str, sorted(found.items()))) for view, found in alignments.items()},
        **{name: getattr(options, name) for name in ("definition", "seed", "samples", "utterances")},
    }
    record = Record(out, "cca", settings, ["model", "view", "layer", "sample", "split"])
    record.refuse_other_models({model.name: model.identity for model in models})
    for model in models:
        layers = options.layers or model.layers
        todo = [
            view
            for view in options.views
            if not _is_done(record, model, view, _compared(view, layers, model))
        ]
        if not todo:
            continue
        hop = max(map(model.hop, layers))
        if hop not in plans:
            plans[hop] = make_plan(cuts, alignments, options, hop)
        record.add(*_scores(model, cuts, plans[hop], layers, replace(options, views=tuple(todo))))
    return record


def _compared(view: str, layers: Sequence[str], model: LayeredModel) -> list[str]:
    """The layers that are compared with a view: not the local features with themselves."""
    return [layer for layer in layers if (view, layer) != ("local", model.local)]


def _is_done(record: Record, model: LayeredModel, view: str, layers: Sequence[str]) -> bool:
    rows = record.find(model=model.name, view=view, identity=model.identity)
    return {row["layer"] for row in rows} >= set(layers)


def _alignments(view: str, cuts: Sequence[Cut], options: CcaOptions) -> Alignments:
    """Where the phones or words are."""
    if view == "phone":
        return map_phones(read_alignments(options.phones, cuts, view), options.phone_map)
    return fold_words(read_alignments(options.words, cuts, view))


def make_plan(
    cuts: Sequence[Cut], alignments: Mapping[str, Alignments], options: CcaOptions, hop: int
) -> Plan:
    """Draw samples and parts.

    Args:
        cuts: the speech.
        alignments: by view of labels.
        options: how much.
        hop: samples from one frame to the next.

    Raises:
        UserError: if there is too little speech, or the alignments are missing.
    """
    plan = Plan({}, {}, {})
    for sample in range(options.samples if set(options.views) & FRAME_VIEWS.keys() else 0):
        names = sample_utterances(
            (cut.id for cut in cuts), most=options.utterances, seed=options.seed, sample_set=sample
        )
        if len(names) < PARTS:
            raise UserError(f"{len(names)} utterances are too few: each of {PARTS} parts needs one")
        splits = split_by_utterance(names, seed=options.seed, sample_set=sample)
        piece = dict.fromkeys(names, 2 * CHOICES)
        for number, split in enumerate(splits):
            piece |= {names[row]: 2 * number for row in split.dev}
            piece |= {names[row]: 2 * number + 1 for row in split.test}
        for name, number in piece.items():
            plan.pieces.setdefault(name, []).append((sample, number))
    for view, found in alignments.items():
        _plan_labels(plan, view, found, cuts, options, hop)
    return plan


def _plan_labels(
    plan: Plan, view: str, alignments: Alignments, cuts: Sequence[Cut], options: CcaOptions, hop: int
) -> None:
    """Draw the instances of a view of labels."""
    phones = view == "phone"
    n_frames = {
        cut.id: HubertConfig().frames(samples_at_16k(cut)) * HubertConfig().hop // hop for cut in cuts
    }
    every = instances_of(alignments, n_frames, middle=phones, hop=hop)
    plan.instances[view], plan.samples[view] = [], []
    for sample in range(options.samples):
        chosen = sample_instances(
            every,
            most_each=PER_PHONE if phones else PER_WORD,
            most_labels=None if phones else WORDS,
            seed=options.seed,
            sample_set=sample,
        )
        start = len(plan.instances[view])
        plan.samples[view].append(slice(start, start + len(chosen)))
        plan.instances[view] += chosen
    if rare := rare_labels(every):
        logger.warning("%s: left out as too rare: %s", view, listed(rare))


def _scores(
    model: LayeredModel, cuts: Sequence[Cut], plan: Plan, layers: Sequence[str], options: CcaOptions
) -> list[dict[str, Any]]:
    """A row for each view, layer, sample and split."""
    used = [*layers, *([model.local] if "local" in options.views and model.local not in layers else [])]
    step = max(map(model.hop, used))
    named = [view for view in options.views if view in FRAME_VIEWS]
    frame_views: dict[str, FrameView] = {
        view: partial(FRAME_VIEWS[view], model=model, step=step) for view in named
    }
    wanted = Wanted(
        used,
        views=frame_views,
        pieces=plan.pieces if frame_views else {},
        instances={view: plan.instances[view] for view in options.views if view in LABEL_VIEWS},
    )
    _check_sizes(model, cuts, plan, wanted)
    found = collect(model, cuts, wanted)
    work = [
        (view, layer, sample)
        for view in options.views
        for layer in _compared(view, layers, model)
        for sample in range(options.samples)
    ]
    rows = []
    for view, layer, sample in tqdm(work, desc=f"{model.name}: CCA", unit="layer", disable=None):
        if view in FRAME_VIEWS:
            folds = frame_folds(found, view, layer, sample)
        else:
            folds = label_folds(found, plan, view, layer, sample, options.seed)
        for split, (train, dev, test) in enumerate(folds):
            name = f"{model.name}, {view}, layer {layer}"
            score = score_fold(train, dev, test, definition=options.definition, name=name)
            about = {"model": model.name, "identity": model.identity, "view": view, "layer": layer}
            sizes = dict(zip(("features", "targets"), train.xy.shape, strict=True)) | {"instances": train.n}
            rows.append(about | {"sample": sample, "split": split} | asdict(score) | sizes)
    return rows


def _check_sizes(model: LayeredModel, cuts: Sequence[Cut], plan: Plan, wanted: Wanted) -> None:
    """Refuse too few instances before the pass over the speech; `score_fold` would do so after it.

    Raises:
        UserError: saying how many are needed.
    """
    names = {instance.utterance for found in wanted.instances.values() for instance in found}
    shortest = min((cut for cut in cuts if cut.id in names), key=lambda cut: cut.duration, default=None)
    if shortest is None:
        return
    waveforms, lengths = pad([read_wave(shortest, model)])
    with torch.no_grad():
        states = model.activations(waveforms, lengths, wanted.layers).states
    for view in wanted.instances:
        for place in plan.samples[view]:
            labels = [instance.label for instance in plan.instances[view][place]]
            for layer, state in states.items():
                few, many = sorted((state.shape[2], len(set(labels))))
                needed = max(PARTS * (few + 1), -(-PARTS * (many + 1) // (PARTS - 2)))
                if len(labels) < needed:
                    raise UserError(
                        f"{model.name}, layer {layer}: {len(labels)} instances of {len(set(labels))} {view}s "
                        f"are too few for {state.shape[2]} dimensions: at least {needed} are needed"
                    )


def frame_folds(
    found: Collected, view: str, layer: str, sample: int
) -> Iterator[tuple[Moments, Moments, Moments]]:
    """Training, dev and test part of each split."""
    pieces = [
        found.frames[sample, piece, layer].with_y(found.columns[view]) for piece in range(2 * CHOICES + 1)
    ]
    for split in range(CHOICES):
        dev, test = 2 * split, 2 * split + 1
        yield (
            reduce(add, (m for n, m in enumerate(pieces) if n not in (dev, test))),
            pieces[dev],
            pieces[test],
        )


def label_folds(
    found: Collected, plan: Plan, view: str, layer: str, sample: int, seed: int
) -> Iterator[tuple[Moments, Moments, Moments]]:
    """The same of segments and their labels."""
    labels = [instance.label for instance in plan.instances[view][plan.samples[view][sample]]]
    x = found.pooled[view][layer][plan.samples[view][sample]]
    y = one_hot(labels)[0].to(x.device)
    for split in split_by_label(labels, seed=seed, sample_set=sample):
        parts = (torch.from_numpy(part) for part in (split.train, split.dev, split.test))
        train, dev, test = (Moments.of(x[part], y[part]) for part in parts)
        yield train, dev, test


def tables(record: Record, models: Sequence[str]) -> str:
    """Markdown: for each view a table, a row for each layer and a column for each model."""
    by_model = {model: scores_of(record.rows, model) for model in models}
    texts = []
    for view in VIEWS:
        shown = {model: views[view] for model, views in by_model.items() if view in views}
        layers = list(dict.fromkeys(layer for found in shown.values() for layer in found))
        rows = [[layer, *(_cell(found.get(layer)) for found in shown.values())] for layer in layers]
        if rows:
            texts.append(markdown.table([view, *shown], rows))
        if note := _narrow_layers(record.find(view=view), view):
            texts.append(note)
    return "\n\n".join(texts)


def _narrow_layers(rows: Sequence[Mapping[str, Any]], view: str) -> str:
    """A note on layers whose scores are means over other directions than those of the rest.

    PWCCA weights the directions of the view with fewer features: the layer's own where it has fewer.
    """
    narrow = list(dict.fromkeys(row["layer"] for row in rows if row["features"] < row["targets"]))
    if not narrow or all(row["layer"] in narrow for row in rows):
        return ""
    return (
        f"{view}: {listed(narrow, 9)} have fewer features than the {rows[0]['targets']} of the {view} view: "
        "their scores are not comparable with those of the other layers."
    )


def _cell(scores: Sequence[float] | None) -> str:
    """The mean, and how far scores of other samples and splits are from it."""
    return "" if not scores else f"{mean(scores):.3f} +-{float(np.std(scores)):.3f}"
