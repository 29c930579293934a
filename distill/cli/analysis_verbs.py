"""The verbs of the command line that look inside models, and their options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distill.cli import analysing, commands
from distill.cli.arguments import (
    BATCH_SIZE,
    CHECKPOINTS,
    CHOICES,
    NOISE,
    PHONE_MAP,
    PHONES,
    SCORES,
    SPEECH,
    UTTERANCES,
    WORDS,
    Argument,
    Verb,
    condition,
    out,
    seed,
)

ANALYSES: Mapping[str, Verb] = {
    "probe waveform": Verb(
        analysing.run_waveform,
        "errors and time of recognition: noise, speed, dropped chunks, attacks",
        "distill probe waveform facebook/wav2vec2-base-960h facebook/hubert-large-ls960-ft \\\n"
        "    --speech data/librispeech/test-clean.jsonl.gz --out e1\n"
        "  distill probe waveform runs/s4@evaluations/s4/heads/ks-last-seed0 --speech kws.tsv \\\n"
        "    --perturb white_noise=0,0.5,1 --perturb background:fsd --noise fsd=noises/ --perturb pgd=40,20",
        (
            Argument(
                "models",
                nargs="+",
                metavar="MODEL",
                help="CHECKPOINT@HEAD, a model with the folder of its head that evaluate trained; or folder "
                "or hub id of a fine-tuned CTC model",
            ),
            SPEECH,
            UTTERANCES,
            Argument(
                "--perturb",
                action="append",
                metavar="NAME[=VALUES]",
                help="white_noise, speed, chunk_length, chunk_count, fgsm, pgd; background:SOURCE with "
                "2-dist, musan, wham, gaussian, fsd, dns or a folder; repeat for several (the first four)",
            ),
            NOISE,
            Argument(
                "--level",
                type=float,
                default=1.0,
                help="of white noise, in standard deviations of the utterance (1)",
            ),
            Argument("--absolute", action="store_true", help="the level is in units of full scale"),
            Argument("--steps", type=int, default=10, help="of pgd (10)"),
            Argument(
                "--made-on",
                metavar="MODEL",
                help="attack this model and let all hear that audio (each its own)",
            ),
            seed("of utterances and perturbations"),
            out("folder for results and figures; continued if it exists"),
        ),
    ),
    "probe layers": Verb(
        analysing.run_layer_noise,
        "what noise after one layer does to errors, to the last layer or to the loss",
        "distill probe layers facebook/wav2vec2-base-960h --out e2a \\\n"
        "    --speech data/librispeech/test-clean.jsonl.gz\n"
        "  distill probe layers runs/t1 runs/s1 runs/s4 --speech my_speech --out e2a\n"
        "  distill probe layers runs/s1 runs/s4 --teacher runs/t1 --speech my_speech --sigma 0 --sigma 0.4",
        (
            Argument(
                "models",
                nargs="+",
                metavar="MODEL",
                help="recognisers (CHECKPOINT@HEAD, fine-tuned CTC models), judged by their errors; or any "
                "models, judged by the distance of their last layer",
            ),
            SPEECH,
            UTTERANCES,
            Argument(
                "--teacher", metavar="CKPT", help="judge students by their distillation loss against it"
            ),
            Argument(
                "--layer",
                action="append",
                metavar="NAME",
                help="after which noise goes: cnn, 0, 1 ..., conv1 ...; repeat for several (cnn, 0, 1 ...)",
            ),
            Argument(
                "--kind",
                action="append",
                metavar="NAME",
                help="additive: h + sigma g; multiplicative: h (1 + sigma g); repeat for several (both)",
            ),
            Argument(
                "--sigma",
                type=float,
                action="append",
                help="standard deviation; repeat for several (0 to 0.6 by 0.1)",
            ),
            BATCH_SIZE,
            seed("of utterances and noise"),
            out("folder for results and figures; continued if it exists"),
        ),
    ),
    "probe activations": Verb(
        analysing.run_activations,
        "distance, cosine and CCA of each layer between clean and disturbed speech",
        "distill probe activations facebook/wav2vec2-base-960h --out e2b \\\n"
        "    --speech data/librispeech/test-clean.jsonl.gz\n"
        "  distill probe activations runs/s1 runs/s4 --speech my_speech --out e2b \\\n"
        "    --rho 0.1 --condition fsd --noise fsd=noises/",
        (
            Argument(
                "models",
                nargs="+",
                metavar="MODEL",
                help="checkpoints, folders or hub ids of transformers, s3prl:NAME[=CHECKPOINT]",
            ),
            SPEECH,
            UTTERANCES,
            Argument(
                "--rho",
                type=float,
                action="append",
                help="standard deviation of white noise at the input, over that of the utterance; repeat for "
                "several (0.1 to 0.5 by 0.1 without --condition)",
            ),
            condition("other disturbance: 2-dist, fsd, dns, musan ...; repeat for several"),
            NOISE,
            Argument(
                "--layer",
                action="append",
                metavar="NAME",
                help="to look at: cnn, 0, 1 ..., conv1 ...; repeat for several (cnn, 0, 1 ...)",
            ),
            Argument("--no-cca", action="store_true", help="without canonical correlations, which take time"),
            BATCH_SIZE,
            seed("of utterances and noise"),
            out("folder for results and figures; continued if it exists"),
        ),
    ),
    "cca": Verb(
        analysing.run_cca,
        "how much of sounds, phones and words each layer carries (canonical correlations)",
        "distill cca runs/t1 runs/s4 --speech data/mini/speech_train.jsonl.gz --phones --words --out cca",
        (
            CHECKPOINTS,
            SPEECH,
            Argument(
                "--view",
                action="append",
                choices=("local", "mel", "phone", "word"),
                help="to compare with; repeat for several (local, mel; phone and word where given)",
            ),
            PHONES,
            WORDS,
            PHONE_MAP,
            Argument("--layer", action="append", help="repeat for several (all, every convolution too)"),
            Argument("--random", action="store_true", help="the same with random weights too, as a control"),
            Argument("--utterances", type=int, default=500, help="of a sample, for local and mel (500)"),
            Argument("--samples", type=int, default=3, help="of the speech (3)"),
            Argument(
                "--definition",
                choices=("centred", "reference"),
                default="centred",
                help="of PWCCA's weights; reference: as the code of Pasad et al. has them (centred)",
            ),
            SCORES,
            CHOICES[0],
            out("folder for scores and figures (cca)", default=Path("cca")),
            seed("of samples and parts"),
        ),
    ),
    "layers": Verb(
        analysing.run_layers,
        "which layer to feed a task, without training a head",
        "distill layers runs/t1 --words data/mini/speech_train.jsonl.gz --phones",
        (
            Argument("checkpoint", help="student or teacher"),
            WORDS,
            PHONES,
            PHONE_MAP,
            Argument("--speech", help="manifest, TSV or folder of audio (the manifest given as --words)"),
            Argument("--utterances", type=int, default=500, help="to use, at random (500)"),
            Argument("--samples", type=int, default=3, help="of these (3)"),
            SCORES,
            out("folder for scores and figures (layers)", default=Path("layers")),
            seed("of samples and parts"),
        ),
    ),
    "tsne": Verb(
        commands.run_tsne,
        "draw the last layer, clean and distorted (Fig. 2), and say how far apart they are",
        "distill tsne runs/s1 runs/s4 --speech data/mini/speech_test.jsonl.gz \\\n"
        "    --noise musan=noises/ --out tsne",
        (
            CHECKPOINTS,
            SPEECH,
            NOISE,
            out(
                "folder, for `distill report` and to add models later, or picture (tsne.png)",
                default=Path("tsne.png"),
            ),
            seed("of distortions, t-SNE and intervals"),
        ),
    ),
}
