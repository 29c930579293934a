"""CTC models of transformers with their own vocabulary: fine-tuned wav2vec 2.0, HuBERT, DistilHuBERT, WavLM.

Transcripts are brought to the vocabulary's case (if it has one), typographic apostrophes become ', and any
white space one space; what the vocabulary still lacks is an error, not left out: a word error rate without a
word's punctuation is another one.

Shapes: B utterances, T samples at 16 kHz, F frames, V symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lhotse.cut import Cut
from rapidfuzz.distance import Levenshtein
from torch import Tensor
from typing_extensions import override

from distill.analysis.foreign_models import TransformersModel, config_of, load_pretrained, normalizes
from distill.analysis.recognition import Recognised, Recogniser, character_errors, ctc_losses
from distill.downstream.features import hash_weights
from distill.downstream.truths import text_of
from distill.errors import CheckpointError, DataError, listed

_APOSTROPHES = str.maketrans("\u2019\u02bc\uff07", "'''")


class Vocabulary:
    """The symbols of a CTC model.

    Args:
        tokenizer: of transformers.
        n_symbols: V, of the model.
        blank: number of the model's blank.
        source: for messages.

    Raises:
        CheckpointError: if tokenizer and model do not belong together, or it is not one of characters.
    """

    def __init__(self, tokenizer: Any, n_symbols: int, blank: int, source: str):
        self.tokenizer, self.blank = tokenizer, blank
        self.delimiter: str | None = getattr(tokenizer, "word_delimiter_token", None)
        special = set(tokenizer.all_special_tokens) - {self.delimiter}
        numbers = {symbol: n for symbol, n in tokenizer.get_vocab().items() if symbol not in special}
        self.numbers: dict[str, int] = {s: n for s, n in numbers.items() if len(s) == 1}
        if self.delimiter not in numbers or hasattr(tokenizer, "do_phonemize") or len(self.numbers) < 2:
            raise CheckpointError(
                f"{source}: its vocabulary is not one of characters with a symbol between words: word error "
                "rates need one"
            )
        if beyond := [symbol for symbol, number in numbers.items() if number >= n_symbols]:
            raise CheckpointError(
                f"{source}: the vocabulary does not fit the model, which has {n_symbols} outputs: no output "
                f"for {listed(beyond)}"
            )
        if tokenizer.pad_token_id != blank:
            raise CheckpointError(
                f"{source}: the vocabulary does not fit the model: the blank is number {blank} in "
                f"config.json (pad_token_id), but {tokenizer.pad_token_id} among the tokens "
                f"({tokenizer.pad_token})"
            )
        letters = [symbol for symbol in self.numbers if symbol.isalpha()]
        self.upper = any(s.isupper() for s in letters) and not any(s.islower() for s in letters)
        self.lower = any(s.islower() for s in letters) and not any(s.isupper() for s in letters)

    def normalised(self, text: str) -> str:
        """A transcript in the vocabulary's case."""
        text = " ".join(text.translate(_APOSTROPHES).split())
        return text.upper() if self.upper else text.lower() if self.lower else text

    def symbols(self, text: str) -> list[str]:
        """Of a normalised text; the delimiter stands between words."""
        assert self.delimiter is not None
        return [self.delimiter if letter == " " else letter for letter in text]

    def targets(self, text: str) -> list[int]:
        """Numbers of the symbols of a normalised text."""
        all_numbers = self.tokenizer.get_vocab()
        return [all_numbers[symbol] for symbol in self.symbols(text)]

    def lacking(self, text: str) -> set[str]:
        """What a normalised text has and the vocabulary has not."""
        return {letter for letter in text if letter != " " and letter not in self.numbers} | (
            {self.delimiter} & set(text) if self.delimiter and self.delimiter != " " else set()
        )

    def decode(self, numbers: Sequence[int]) -> str:
        """The likeliest symbol of each frame -> text in the vocabulary's case."""
        text = " ".join(self.tokenizer.decode(list(numbers)).split())
        lowered = getattr(self.tokenizer, "do_lower_case", False)  # it shows capitals as small letters
        return text.upper() if lowered and self.upper else text


class TransformersRecogniser(Recogniser):
    """A fine-tuned model of transformers, decoded greedily.

    Args:
        source: folder or hub id, with the files of its processor.
        name: for people.

    Raises:
        CheckpointError: if it cannot be loaded, has no vocabulary, or one that does not fit.
    """

    metrics = ("wer", "cer")

    def __init__(self, source: str, name: str):
        whole = load_pretrained("AutoModelForCTC", source)
        normalized = normalizes(source)
        if normalized is None:
            raise CheckpointError(
                f"{source} has no preprocessor_config.json, which says whether waveforms are normalised: "
                "save its processor there too"
            )
        tokenizer = load_pretrained("AutoTokenizer", source)
        self.vocabulary = Vocabulary(tokenizer, whole.config.vocab_size, whole.config.pad_token_id, source)
        self.name = name
        self.model = TransformersModel(whole.base_model, name, normalizes=normalized)
        self.head: Any = whole.lm_head.to(self.model.device).eval().requires_grad_(False)
        about = f"{self.model.identity} {sorted(tokenizer.get_vocab().items())}"
        self.identity = hash_weights(self.head.state_dict(), about)

    @override
    def outputs(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        last = self.model.layers[-1]
        found = self.model.activations(waveforms, lengths, [last])
        return self.head(found.states[last]).float().log_softmax(2), found.lengths[last]

    @override
    def loss(self, outputs: Tensor, frames: Tensor, cuts: Sequence[Cut]) -> Tensor:
        targets = [self.vocabulary.targets(self._truth(cut)) for cut in cuts]
        return ctc_losses(outputs, frames, targets, blank=self.vocabulary.blank)

    @override
    def recognise(self, outputs: Tensor, frames: Tensor, cuts: Sequence[Cut]) -> list[Recognised]:
        found = []
        best = outputs.detach().argmax(2).cpu()
        for row, n_frames, cut in zip(best, frames.tolist(), cuts, strict=True):
            truth, prediction = self._truth(cut), self.vocabulary.decode(row[:n_frames].tolist())
            words = truth.split()
            wrong = float(Levenshtein.distance(prediction.split(), words)), float(len(words))
            errors = {"wer": wrong, "cer": character_errors(truth, prediction)}
            found.append(Recognised(errors, truth, prediction))
        return found

    def _truth(self, cut: Cut) -> str:
        return self.vocabulary.normalised(text_of(cut))

    @override
    def check(self, cuts: Sequence[Cut]) -> None:
        lacking: dict[str, str] = {}
        for cut in cuts:
            lacking |= dict.fromkeys(self.vocabulary.lacking(self._truth(cut)) - lacking.keys(), cut.id)
        if lacking:
            some = listed((f"{symbol!r} in {where}" for symbol, where in sorted(lacking.items())), limit=8)
            raise DataError(
                f"the vocabulary of {self.name} does not fit the transcripts, it lacks {some}: spell them "
                "out or leave them out in the manifest"
            )


def is_ctc_model(source: str) -> bool:
    """Whether a folder or hub id holds a model with a CTC head."""
    names = config_of(source).get("architectures")
    return isinstance(names, list) and any(str(name).endswith("ForCTC") for name in names)
