"""The sources of a task's speech and noise."""

from __future__ import annotations

from pathlib import Path

from lhotse.cut import Cut

from distill.data.audio import samples_at_16k
from distill.data.dataset import check_length
from distill.data.sources import check_names, open_cuts, split_query
from distill.data_prep.advice import how_to_make
from distill.downstream.distorted_sets import find_condition
from distill.downstream.options import EvaluationConfig
from distill.downstream.tasks import NOISES, RECORDED
from distill.encoder import EncoderConfig
from distill.errors import DataError, UsageError
from distill.preflight.survey import check_files


def manifests_of(config: EvaluationConfig) -> list[str]:
    """Names of the manifests of an evaluation's speech: training, dev, test, recorded test sets."""
    task = config.defaults
    names = [*task.train, *(name for name in (task.dev, task.test) if name)]
    return list(dict.fromkeys([*names, *(name for name in config.effective_conditions if name in RECORDED)]))


def source_of(config: EvaluationConfig, name: str) -> str:
    """Source of a manifest: from `config.sources`, else in the data folder."""
    below = RECORDED.get(name, f"{config.defaults.corpus}/{name}")
    return config.sources.get(name, f"{config.data}/{below}.jsonl.gz")


def check_sources(config: EvaluationConfig) -> None:
    """Refuse missing manifests and noises, naming all of them and the commands that make them.

    Raises:
        DataError: if any is.
    """
    named = [
        (source_of(config, name), f" (sources.{name})" if name in config.sources else "")
        for name in manifests_of(config)
    ]
    for corpus, several in noise_sources(config).items():
        named += [(source, " (rooms)" if corpus == "rir" else f" ({corpus} noise)") for source in several]
    missing: dict[Path, str] = {}
    for source, what in named:
        path = Path(split_query(source)[0])
        if not path.exists():
            missing.setdefault(path, what)
    if missing:
        ways = dict.fromkeys(how_to_make(path) for path in missing)
        verb = "does" if len(missing) == 1 else "do"
        said = ", ".join(f"{path}{what}" for path, what in missing.items())
        raise DataError("; ".join([f"{said} {verb} not exist", *ways]))


def read_split(config: EvaluationConfig, name: str, model: EncoderConfig) -> list[Cut]:
    """The utterances of a manifest, each with at least a frame of the model.

    Raises:
        DataError: if it is missing, has two utterances of the same name, or audio files are missing.
    """
    source = source_of(config, name)
    cuts: list[Cut] = list(open_cuts(source))  # pyright: ignore[reportAssignmentType]
    check_names(cuts, source)
    check_files(cuts, source)
    for cut in cuts:
        check_length(f"{source}: {cut.id}", samples_at_16k(cut), model)
    return cuts


def noise_sources(config: EvaluationConfig) -> dict[str, list[str]]:
    """Sources of the noise that the conditions need, by corpus.

    Raises:
        UsageError: for an unknown condition, or other speech as noise without its source.
    """
    needed = {name for condition in config.effective_conditions for name in noise_corpora(condition)}
    if "speech" in needed and not config.noises.get("speech"):
        raise UsageError("condition speech needs other utterances: name them with --noise speech=SOURCE")
    return {
        name: config.noises.get(name) or [f"{config.data}/{NOISES[name]}.jsonl.gz"] for name in sorted(needed)
    }


def noise_corpora(condition: str) -> list[str]:
    """The corpora of noise and rooms that a condition needs.

    Raises:
        UsageError: for an unknown condition.
    """
    if condition in RECORDED:
        return []
    return sorted(find_condition(condition).corpora)
