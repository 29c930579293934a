"""Checks of all that an evaluation needs: everything missing or unusable, before a head is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distill.atomic import read_json
from distill.data.sources import split_query
from distill.data_prep import PUBLISHED
from distill.data_prep.advice import how_to_make
from distill.downstream.labels import ClassLabels, make_labels
from distill.downstream.options import EvaluationConfig
from distill.downstream.paper import PAPER_TASKS, size_of_test
from distill.downstream.speech import TaskSpeech
from distill.downstream.task_sources import manifests_of, noise_sources, source_of
from distill.downstream.tasks import RECORDED
from distill.downstream.truths import check_words
from distill.errors import DataError
from distill.preflight.check import SAMPLE
from distill.preflight.check_machine import writable_finding
from distill.preflight.check_sources import short_name, source_finding
from distill.preflight.findings import CheckReport, Finding, wrong
from distill.preflight.survey import survey


def check_task(config: EvaluationConfig, out: Path, *, sample: int | None = SAMPLE) -> CheckReport:
    """Check everything that an evaluation needs but the model: speech, labels, noise, licences, the folder.

    Args:
        config: the task and how.
        out: folder of evaluations.
        sample: audio files of each source that are opened, at random; None: all. That files exist is checked
            for all.

    Returns:
        All findings; problems are not raised.
    """
    report = CheckReport(recipe=config.task)
    for name in manifests_of(config):
        # Training may skip some unreadable files; a test set must be complete.
        tolerated = (
            config.max_bad_fraction if name in config.defaults.train and not config.defaults.folds else 0.0
        )
        what, source = f"{_role(config, name)}: {name}", source_of(config, name)
        report.findings.append(_source(what, source, sample, config.seed, tolerated))
    if report.ok:  # else the same would be reported twice
        report.findings += _check_speech(config, out)
    for corpus, sources in noise_sources(config).items():
        for source in sources:
            what = f"noise.{corpus}: {short_name(source)}"
            report.findings.append(_source(what, source, sample, config.seed, 0.0))
    report.findings += [*_check_decoding(config), *_licences(config)]
    report.findings.append(writable_finding(f"out: {out}", out, "can be written"))
    return report


def _role(config: EvaluationConfig, name: str) -> str:
    task = config.defaults
    if name in RECORDED or name == task.test:
        return "test"
    if name == task.dev:
        return "dev"
    return "fold" if task.folds else "train"


def _source(what: str, source: str, sample: int | None, seed: int, tolerated: float) -> Finding:
    found = survey(source, sample=sample, seed=seed)
    return source_finding(what, source, found, tolerated, how_to_make, key="max_bad_fraction")


def _check_speech(config: EvaluationConfig, out: Path) -> Iterator[Finding]:
    """What an evaluation refuses although all files exist; sizes of the test sets; classes."""
    speech = TaskSpeech(config)
    try:
        for name in manifests_of(config):
            speech.split(name)
    except DataError as error:
        yield wrong("speech", "cannot be used", str(error), "fix the manifest, or prepare the corpus again")
        return
    yield from _sizes(config, speech)
    try:
        said = set()
        for fold in config.effective_folds:
            train, dev = speech.training(fold)
            tests = [cut for name in config.effective_conditions for cut in speech.test(name, fold)]
            if config.defaults.kind == "phones":
                check_words([*train, *dev, *tests], config, out / "words_without_phones.txt")
            labels = make_labels(train, config)
            for cut in [*dev, *tests]:
                labels.targets(cut)
            slots = labels.slots if isinstance(labels, ClassLabels) else [labels.symbols]
            said.add(" x ".join(str(len(slot)) for slot in slots))
    except DataError as error:
        yield wrong(
            "labels", "cannot be used", str(error), "fix the labels, or set label=COLUMN or lexicon=FILE"
        )
        return
    kind = "classes" if config.defaults.kind == "classes" else "symbols"
    yield Finding(what="labels", state="ok", detail=f"{', '.join(sorted(said))} {kind}")


def _sizes(config: EvaluationConfig, speech: TaskSpeech) -> Iterator[Finding]:
    """Whether the test sets have the published number of utterances."""
    whose = "the paper's" if config.task in PAPER_TASKS else "the corpus's"
    seen = set()
    for fold in config.effective_folds:
        for condition in config.effective_conditions:
            test_set = condition if condition in RECORDED else "test set" if fold is None else f"fold {fold}"
            if test_set in seen:
                continue
            seen.add(test_set)
            count, size = len(speech.test(condition, fold)), size_of_test(config.task, condition, fold)
            detail = f"{count:,} utterances, {whose} {size:,}" if size else f"{count:,} utterances"
            advice = f"scores are not comparable: {whose} has {size:,} utterances, this one {count:,}"
            if count == size or size is None:
                yield Finding(what=f"size: {test_set}", state="ok", detail=detail)
            else:
                yield Finding(what=f"size: {test_set}", state="note", detail=detail, fix=advice)


def _check_decoding(config: EvaluationConfig) -> Iterator[Finding]:
    """Language model and lexica."""
    files = [*([config.lm] if config.lm else []), *config.lexicons]
    for file in files:
        what = f"{'lm' if file == config.lm else 'lexicon'}: {Path(file).name}"
        if Path(file).is_file():
            yield Finding(what=what, state="ok", detail=f"{Path(file).stat().st_size / 1e6:.1f} MB")
        else:
            yield wrong(what, "missing", f"{file} does not exist", "correct it, or leave it out")


def _licences(config: EvaluationConfig) -> Iterator[Finding]:
    """Licences of the corpora."""
    sources = [source_of(config, name) for name in manifests_of(config)]
    sources += [source for several in noise_sources(config).values() for source in several]
    corpora: dict[str, None] = {}
    for source in sources:
        corpora[_corpus_of(Path(split_query(source)[0]))] = None
    for name in filter(None, corpora):
        corpus = PUBLISHED[name]
        yield Finding(what=f"licence: {name}", state="ok", detail=corpus.title, more=corpus.licence)
    if "" in corpora:
        detail = "of other sources: not known here"
        yield Finding(what="licence", state="note", detail=detail)


def _corpus_of(manifest: Path) -> str:
    """The published corpus of a manifest, as noted by `distill data prepare`; "" if there is none."""
    try:
        name = read_json(manifest.parent / "prepared.json")["corpus"]
    except (OSError, ValueError, KeyError):
        name = manifest.parent.name
    return name if name in PUBLISHED else ""
