"""Word error rates of a fine-tuned model on named test sets.

The run folder gets `results/wer-NAME.json` for each test set, `results/wer-NAME-lm.json` with a language
model, and beside them `predictions/` with the outcome of every utterance. They are results as
`distill.downstream.results` reads them, of the task "finetune" and the condition NAME, and have the numbers
of "errors" and "words" too. Tables know test sets by their names:

    dev-clean, dev-other, test-clean, test-other     LibriSpeech
    chime3 (or chime3-ch0), chime3-ch5, -ch1, -ch2   CHiME-3, real evaluation set, by channel
    ns-clean, ns-other                               LibriSpeech's test sets in noise (condition ns)

What is drawn for an utterance does not depend on the recipe's seed: every model hears the same audio.

Shapes: B utterances, T samples, F frames, V outputs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor
from tqdm import tqdm

from distill.atomic import read_json, write_json
from distill.checkpoints.files import is_plain_name
from distill.checkpoints.heard import noises_heard
from distill.config.method import speech_names
from distill.distortions import Distorter
from distill.downstream.decoding import BeamSearch, greedy, order_of
from distill.downstream.features import hash_weights
from distill.downstream.finetuning.facts import hears_noise, pretraining_facts
from distill.downstream.finetuning.search import (
    Decoder,
    count_errors,
    is_characters,
    make_decoder,
    random_search,
    search_options,
)
from distill.downstream.finetuning.wer_speech import WerSpeech, heard_in_training, open_speech, open_test
from distill.downstream.head_testing import Measured, measure
from distill.downstream.labels import Outcome
from distill.downstream.predictions import write_predictions
from distill.downstream.results import FINETUNED, describe_silent
from distill.downstream.subword_search import SubwordDecoder, Units
from distill.errors import ConfigError, DataError, differing_keys, refuse_other_settings
from distill.hashing import file_identity, hash_lines
from distill.processes import is_first_process
from distill.training.devices import devices_of
from distill.training.run_folder import versions

if TYPE_CHECKING:
    from distill.options import FinetuneRecipe

logger = logging.getLogger(__name__)

_BATCH = 16  # utterances at once: outputs do not depend on it
_SEED = 0  # of the distortions: the same for every model


class Recogniser(Protocol):
    """A fine-tuned model, a module with its encoder in it."""

    encoder: Any

    def __call__(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T), (B,) -> log-probabilities (B, F, V), valid frames (B,)."""
        ...


def evaluate_wer(model: Recogniser, units: Units, recipe: FinetuneRecipe, out: Path) -> list[Path]:
    """Count word errors on all test sets of a recipe.

    Test sets whose results exist are left alone; all inputs are opened before the first one is tested.

    Args:
        model: fine-tuned; its outputs are the blank and the units' symbols.
        units: what it writes.
        recipe: of the fine-tuning; its `tests` and `decoding` say what is done here.
        out: its run folder.

    Returns:
        The results, in the order of the recipe: greedy decoding, then with a language model.

    Raises:
        UserError: for anything that the user can fix: a test set that is not complete, results of another
            model or other settings in the folder.
    """
    if not recipe.tests or not is_first_process():
        return []
    run = WerTests(model, units, recipe, Path(out))
    return [path for name in run.tests for path in run.test(name).values()]


def open_tests(recipe: FinetuneRecipe, units: Units) -> tuple[dict[str, WerSpeech], Decoder | None]:
    """All that the tests of a recipe need: before training, this finds what is missing.

    Returns:
        The test sets by name, and the decoder with a language model, if one is asked for.

    Raises:
        UserError: for anything that is missing, or cannot be written by the units.
    """
    for name in recipe.tests:
        if not is_plain_name(name) or name.endswith("-lm"):
            raise ConfigError(f"tests: {name!r} names a file: choose a plain name that does not end with -lm")
    decoder = None
    if (decoding := recipe.decoding).lm is not None:
        options = search_options(units, decoding, beam=decoding.beam, weights=first_weights(recipe))
        decoder = make_decoder(decoding.lm, units, decoding.lexicon, options)
    column = recipe.transcripts
    return {name: open_test(name, test, units, column) for name, test in recipe.tests.items()}, decoder


def first_weights(recipe: FinetuneRecipe) -> tuple[float, float]:
    """(lm_weight, word_score) of a recipe, or SUPERB's: those of the test without a search."""
    decoding = recipe.decoding
    score = BeamSearch().word_score if decoding.word_score is None else decoding.word_score
    return float(decoding.lm_weight), float(score)


class WerTests:
    """The tests of one fine-tuned model.

    Args:
        model: fine-tuned.
        units: what it writes.
        recipe: of the fine-tuning.
        out: its run folder.
    """

    def __init__(self, model: Recogniser, units: Units, recipe: FinetuneRecipe, out: Path):
        self.model, self.units, self.recipe, self.out = model, units, recipe, out
        self.module = _AsHead(model, units, devices_of(recipe)[0])
        self.checkpoint_hash = hash_weights(self.module.state())
        self.tests, self.decoder = open_tests(recipe, units)

    def test(self, name: str) -> dict[bool, Path]:
        """Test on one set unless that is done; the results by whether a language model is used."""
        ways = (False,) if self.decoder is None else (False, True)
        paths = {lm: self.out / "results" / f"wer-{name}{'-lm' * lm}.json" for lm in ways}
        settings = {lm: self._settings(name, lm=lm) for lm in ways}
        todo = [lm for lm in ways if not self._is_done(paths[lm], settings[lm])]
        if not todo:
            return paths
        if True in todo:
            self._tune(self.recipe.decoding.test_beam, self.weights)
        measured = self._measure(self.tests[name], [self.decoder if lm else None for lm in todo], name)
        for lm, outcomes in zip(todo, measured.outcomes, strict=True):
            self._write(paths[lm], name, settings[lm], outcomes, measured.silent, lm=lm)
        return paths

    def _measure(self, test: WerSpeech, decoders: Sequence[Any], name: str) -> Measured:
        return measure(
            self.module,  # pyright: ignore[reportArgumentType]
            test.cuts,
            test.words,  # pyright: ignore[reportArgumentType]
            Distorter.from_config(test.distortion, split="test"),
            test.noises,
            seed=_SEED,
            batch_size=_BATCH,
            workers=self.recipe.data.workers,
            name=name,
            decoders=decoders,
        )

    def _tune(self, beam: int, weights: tuple[float, float]) -> None:
        assert self.decoder is not None
        decoding = self.recipe.decoding
        self.decoder.search(search_options(self.units, decoding, beam=beam, weights=weights))

    @cached_property
    def weights(self) -> tuple[float, float]:
        """(lm_weight, word_score): the recipe's, or the best of the search on dev."""
        decoding, outputs = self.recipe.decoding, []
        if not decoding.trials:
            return first_weights(self.recipe)
        dev = open_speech(self.recipe.data.dev, "data.dev", self.units, self.recipe.transcripts)

        def count(lm_weight: float, word_score: float) -> tuple[int, int]:
            self._tune(decoding.beam, (lm_weight, word_score))
            if not outputs:  # only if a trial is missing
                outputs.extend(self._outputs(dev))
            assert self.decoder is not None
            return count_errors(self.decoder, outputs)

        settings = {
            "checkpoint_hash": self.checkpoint_hash,
            **self._lm_settings(),
            "beam": decoding.beam,
            **{key: dev.about[key] for key in ("test set", "test audio")},
        }
        log, seed = self.out / "decoding" / "trials.json", self.recipe.seed
        best = random_search(
            count, log, trials=decoding.trials, first=first_weights(self.recipe), seed=seed, settings=settings
        )
        logger.info(
            "lm_weight %.3f, word_score %.3f: WER %.2f on dev", best.lm_weight, best.word_score, best.wer
        )
        return best.lm_weight, best.word_score

    def _outputs(self, test: WerSpeech) -> list[tuple[Tensor, list[str]]]:
        """(F, V) and transcript of each utterance; all are in memory."""
        kept: list[Tensor] = []

        def keep(log_probs: Tensor) -> list[str]:
            kept.append(log_probs.clone())
            return []

        outcomes = self._measure(test, [keep], "dev").outcomes[0]
        return [(row, test.words[name]) for row, name in zip(kept, outcomes, strict=True)]

    def _lm_settings(self) -> dict[str, Any]:
        """What decoding with a language model depends on, beside beam and weights."""
        decoding = self.recipe.decoding
        assert decoding.lm is not None and self.decoder is not None
        return {
            "lm": file_identity(decoding.lm),
            "lexicons": [file_identity(file) for file in decoding.lexicon],
            "beam_threshold": self.decoder.options.beam_threshold,
            "beam_tokens": self.decoder.options.beam_tokens,
        }

    def _settings(self, name: str, *, lm: bool) -> dict[str, Any]:
        """What a score depends on, as JSON."""
        found = {
            "units": "char" if is_characters(self.units) else "subword",
            "vocabulary": 1 + len(self.units.symbols),
            "symbols": hash_lines(self.units.symbols),
            **self.tests[name].about,
        }
        if lm:
            assert self.recipe.decoding.lm is not None
            of_pieces = isinstance(self.decoder, SubwordDecoder) and self.decoder.of_pieces
            weights = dict(zip(("lm_weight", "word_score"), self.weights, strict=True))
            found |= (
                self._lm_settings()
                | weights
                | {
                    "beam": self.recipe.decoding.test_beam,
                    "lm order": order_of(Path(self.recipe.decoding.lm)),
                    "lm units": "subword" if of_pieces else "word",
                }
            )
        return found

    def _is_done(self, path: Path, settings: Mapping[str, Any]) -> bool:
        """Whether a result of this model exists; one of what the run released before is counted again.

        Raises:
            UserError: if it has other settings.
        """
        try:
            found = read_json(path)
        except (OSError, ValueError):  # missing or damaged
            return False
        noted = found.get("settings")
        before = noted if isinstance(noted, dict) else {}
        if found.get("checkpoint_hash") != self.checkpoint_hash:
            logger.warning("%s is of what this run released before: counted again", path)
            return False
        refuse_other_settings(path, differing_keys(before, settings, unstated_ok=False))
        return True

    @cached_property
    def _pretraining(self) -> tuple[dict[str, Any] | None, list[str]]:
        return pretraining_facts(self.recipe.teacher)

    @cached_property
    def _heard(self) -> list[str]:
        """Corpora of noise that the model has heard in pre-training or fine-tuning, as far as is known."""
        return sorted({*self._pretraining[1], *noises_heard({}, asdict(self.recipe))})

    @cached_property
    def _facts(self) -> dict[str, Any]:
        """What tables find the paper's row by."""
        recipe = self.recipe
        pretraining, _ = self._pretraining
        config = self.module.encoder.config
        return {
            "family": getattr(config, "family", "hubert"),
            "encoder parameters": sum(p.numel() for p in self.module.encoder.parameters()),
            "frozen": recipe.frozen,
            "finetuning speech": speech_names(recipe.data.train),
            "finetune_mct": hears_noise(asdict(recipe)),
            "pretraining": pretraining,
            "pretrain_mct": True if self._pretraining[1] else (pretraining or {}).get("mct"),
        }

    def _write(
        self,
        path: Path,
        name: str,
        settings: Mapping[str, Any],
        outcomes: Mapping[str, Outcome],
        silent: Mapping[str, int],
        *,
        lm: bool,
    ) -> None:
        """One score as JSON, and its utterances."""
        errors = int(sum(outcome.errors for outcome in outcomes.values()))
        words = int(sum(outcome.total for outcome in outcomes.values()))
        trained = self.recipe.data.noises if self.recipe.distort else {}
        before = self._facts["pretraining"] or {}
        tested = [source for sources in self.recipe.tests[name].noises.values() for source in sources]
        heard = heard_in_training(tested, trained)
        heard += heard_in_training(tested, before.get("noises", {}) if before.get("mct") else {})
        result = {
            "task": FINETUNED,
            "condition": name,
            "metric": "wer",
            "value": 100.0 * errors / words,
            "errors": errors,
            "words": words,
            "seed": self.recipe.seed,
            "fold": None,
            "lm": lm,
            "features": "last",
            "model": self.out.name or self.recipe.name,
            "checkpoint_hash": self.checkpoint_hash,
            "recipe": self.recipe.name,
            "head_steps": self.recipe.optim.max_steps,
            "n_utterances": len(outcomes),
            "silent": dict(silent),
            "heard": self._heard,
            "versions": versions(),
            "predictions": write_predictions(self.out, path.stem, outcomes),
            "settings": {**settings, **self._facts, "noise heard in training": sorted(set(heard))},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(path, result)
        said = f"{len(outcomes)} utterances{', ' * bool(silent)}{describe_silent(silent)}"
        tqdm.write(f"{path.stem}: wer {result['value']:.2f} ({said})", file=sys.stderr)


class _AsHead:
    """A fine-tuned model as `measure` wants it: what it takes for features are log-probabilities.

    Its labels are words.
    """

    def __init__(self, model: Recogniser, units: Units, device: torch.device):
        self.model, self.units, self.labels, self.device = model, units, self, device
        self.encoder = model.encoder

    def state(self) -> dict[str, Tensor]:
        """All weights."""
        module: Any = self.model
        return dict(module.state_dict())

    def eval(self) -> None:
        """As in `torch.nn.Module`; the model moves to its device."""
        module: Any = self.model
        module.eval().to(self.device)

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T), (B,) -> (B, F, V), (B,)."""
        log_probs, frames = self.model(waveforms, lengths.to(waveforms.device))
        if log_probs.shape[2] != 1 + len(self.units.symbols):
            raise DataError(
                f"the model has {log_probs.shape[2]} outputs, its units have the blank and "
                f"{len(self.units.symbols)} symbols"
            )
        return log_probs, frames

    def selection(self, log_probs: Tensor) -> Tensor:
        """As they are."""
        return log_probs

    def head(self, log_probs: Tensor, frames: Tensor) -> Tensor:
        """As they are."""
        return log_probs

    def outcomes(
        self, head: Any, log_probs: Tensor, frames: Tensor, words: Sequence[list[str]], decode: Any
    ) -> list[Outcome]:
        """Edit distance in words of each utterance, and the number of words."""
        found = []
        rows = log_probs.detach().float().cpu()
        for row, n_frames, truth in zip(rows, frames.tolist(), words, strict=True):
            if not bool(torch.isfinite(row[:n_frames]).any(-1).all()):
                raise DataError("the model's outputs are not finite: choose another checkpoint")
            said = decode(row[:n_frames]) if decode else self.units.words(greedy(row[:n_frames]))
            wrong = Levenshtein.distance(said, truth)
            found.append(Outcome(float(wrong), float(len(truth)), " ".join(truth), " ".join(said)))
        return found
