"""Options of fine-tuning: an encoder and a convolutional classifier are trained with CTC."""

from __future__ import annotations

from dataclasses import dataclass, field

from distill.errors import check_finite
from distill.options.shared import Recipe

UNITS = ("characters", "subwords")
"""What a fine-tuned model writes."""


@dataclass(kw_only=True)
class ClassifierConfig:
    """The classifier. Defaults: SPIRAL's code; the paper's values are named where they differ."""

    convolutions: int | None = None
    """Convolutions before the linear layer; default: 3 with characters, else 2 (the paper: 2 always)."""
    width: int = 512
    """Their channels."""
    kernel: int = 5
    """Their kernel, in frames, odd."""
    layer_norm: bool = False
    """Layer norm before each ReLU (the paper has it; the code in the large model with characters only)."""
    dropout: float = 0.1
    """Probability behind each ReLU (the paper names none)."""
    frame_ms: float | None = None
    """Length that frames are upsampled to, in ms; default: 20 with characters, else the encoder's."""
    upsampling_width: int | None = 512
    """Channels of an upsampled frame; null: as many as the encoder has features (the paper)."""
    upsampling_norm: bool = True
    """Layer norm, ReLU and dropout behind the upsampling (the paper names none)."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.convolutions is not None and self.convolutions < 0:
            raise ValueError(f"convolutions must not be negative, not {self.convolutions}")
        if self.width < 1 or (self.upsampling_width is not None and self.upsampling_width < 1):
            raise ValueError("width and upsampling_width must be at least 1")
        if self.kernel < 1 or not self.kernel % 2:
            raise ValueError(f"kernel must be odd and at least 1, not {self.kernel}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")
        if self.frame_ms is not None and self.frame_ms <= 0:
            raise ValueError(f"frame_ms must be positive, not {self.frame_ms}")


@dataclass(kw_only=True)
class SpecAugmentConfig:
    """Stretches of the encoder's input that are hidden in training.

    Of SPIRAL's log-mel features (frames of 10 ms, 128 channels), or of the input of HuBERT's transformer.
    """

    time_probability: float = 0.3
    """Share of the frames, if stretches did not overlap; 0: none are hidden."""
    time_length: int = 4
    """Frames of a stretch."""
    channel_probability: float = 0.3
    """Share of the channels, if stretches did not overlap; 0: none are hidden."""
    channel_length: int = 20
    """Channels of a stretch."""

    def __post_init__(self) -> None:
        check_finite(self)
        for name in ("time_probability", "channel_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if self.time_length < 1 or self.channel_length < 1:
            raise ValueError("time_length and channel_length must be at least 1")


@dataclass(kw_only=True)
class RegularisationConfig:
    """How the encoder is regularised in training; what is null is as its checkpoint says."""

    dropout: float | None = None
    """Of the transformers' inputs and residual branches, and behind SPIRAL's convolutions."""
    attention_dropout: float | None = None
    """Of attention weights."""
    activation_dropout: float | None = None
    """Inside the feed-forward blocks."""
    projection_dropout: float | None = None
    """After the projection, of HuBERT only."""
    layerdrop: float | None = None
    """Probability of skipping a layer, of SPIRAL in block 2."""
    block1_layerdrop: float | None = None
    """Probability of skipping a layer in block 1, of SPIRAL only."""
    cnn_grad_scale: float | None = None
    """Factor on the gradient that reaches the first convolutions."""

    def __post_init__(self) -> None:
        check_finite(self)
        for name, value in vars(self).items():
            most = 1.0 if name == "cnn_grad_scale" else 0.99
            if value is not None and not 0.0 <= value <= most:
                raise ValueError(f"{name} must be between 0 and {most:g}, not {value}")

    def stated(self) -> dict[str, float]:
        """The fields that say something."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(kw_only=True)
class TestSet:
    """Speech on which word errors are counted."""

    sources: list[str] = field(default_factory=list)
    """Manifests, TSVs or folders, with transcripts."""
    condition: str | None = None
    """Distortions that are added (ns, dns, musan, ...); null: none."""
    snr_db: list[float] | None = None
    """Lowest and highest signal-to-noise ratio of the condition, in dB; null: the condition's own."""
    noises: dict[str, list[str]] = field(default_factory=dict)
    """By corpus: sources of the condition's noise."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.snr_db is not None and (len(self.snr_db) != 2 or self.snr_db[0] > self.snr_db[1]):
            raise ValueError(f"snr_db must be two numbers, the lower one first, not {self.snr_db}")


@dataclass(kw_only=True)
class DecodingConfig:
    """From log-probabilities to words."""

    lm: str | None = None
    """An n-gram language model of words, or of the model's own subwords (ARPA, or binary of KenLM); tests
    decode without it, too. Null: none."""
    lexicon: list[str] = field(default_factory=list)
    """Files of words and their spellings, for binary language models."""
    beam: int = 50
    """Hypotheses kept while the weights are searched on dev."""
    test_beam: int = 500
    """Hypotheses kept on test sets."""
    beam_threshold: float = 25.0
    """Hypotheses whose score is lower than the best one's by more than this are dropped."""
    beam_tokens: int | None = None
    """Likeliest symbols of a frame that hypotheses go on with; null: 50 subwords, all characters."""
    lm_weight: float = 2.0
    """Factor on the language model's log10-probabilities; of a search, in the first pair that is tried."""
    word_score: float | None = None
    """Added for each word; null: -1. Of a search, in the first pair that is tried."""
    trials: int = 0
    """Random pairs of `lm_weight` and `word_score` that are tried on dev, besides the first; the best one is
    used. 0: no search."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.beam < 1 or self.test_beam < 1 or self.trials < 0:
            raise ValueError("beam and test_beam must be at least 1, trials must not be negative")
        if self.trials and self.lm is None:
            raise ValueError("trials are of a language model's weights: name it with lm, or set trials to 0")
        if self.beam_threshold <= 0 or (self.beam_tokens is not None and self.beam_tokens < 1):
            raise ValueError("beam_threshold must be positive, beam_tokens at least 1 or null")
        if self.lm_weight < 0:
            raise ValueError(f"lm_weight must not be negative, not {self.lm_weight}")


@dataclass(kw_only=True)
class FinetuneRecipe(Recipe):
    """An encoder, SPIRAL or HuBERT, teacher or student, that learns to write down what is said.

    `teacher` is the checkpoint to start from. `optim.weight_decay` is that of the classifier. Utterances
    longer than `data.max_samples` are left out of the training: a crop has no transcript.
    """

    kind: str = "finetune"
    """"finetune"."""
    units: str = "subwords"
    """"characters" (the alphabet, apostrophe and word end), or "subwords" learned from the transcripts."""
    vocabulary: int = 1024
    """Outputs with subwords, the blank included."""
    transcripts: str | None = None
    """Custom field or TSV column with the words, `_` for spaces; null: the manifest's transcripts."""
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """What hears the encoder."""
    masking: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    """What is hidden from the encoder in training."""
    encoder: RegularisationConfig = field(default_factory=RegularisationConfig)
    """Dropout and the like of the encoder."""
    encoder_weight_decay: float = 0.0
    """Weight decay of the encoder."""
    freeze_updates: int = 0
    """First updates that train the classifier alone; the encoder keeps its dropout and masks meanwhile."""
    frozen: bool = False
    """Never train the encoder: it is in eval mode then, without dropout, and nothing is hidden from it."""
    distort: bool = False
    """Distort the training speech as the distortion section says (multi-condition training)."""
    tests: dict[str, TestSet] = field(default_factory=dict)
    """By name: speech to test the fine-tuned model on."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How words are found in the tests; dev is always decoded greedily in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.units not in UNITS:
            raise ValueError(f"units must be one of {', '.join(UNITS)}, not {self.units!r}")
        if self.vocabulary < 3:
            raise ValueError(f"vocabulary must be at least 3, not {self.vocabulary}")
        if self.encoder_weight_decay < 0:
            raise ValueError(f"encoder_weight_decay must not be negative, not {self.encoder_weight_decay}")
        if self.freeze_updates < 0:
            raise ValueError(f"freeze_updates must not be negative, not {self.freeze_updates}")
        if self.frozen and self.freeze_updates:
            raise ValueError("frozen already trains the classifier alone: set freeze_updates to 0")
        if self.freeze_updates >= self.optim.max_steps:
            raise ValueError(
                f"freeze_updates ({self.freeze_updates}) must be below optim.max_steps "
                f"({self.optim.max_steps}): set a lower one, or frozen to train the classifier alone"
            )
