"""The verbs of `distill`: what runs them, their help, an example and their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distill.adaptation.targets_options import TargetsOptions
from distill.cli import analysing, commands
from distill.cli.arguments import (
    BATCH_SIZE,
    CHECKPOINTS,
    CHOICES,
    DATA,
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
    overrides,
    sample_size,
    seed,
    training,
)
from distill.data_prep import CORPORA

GROUPS = {
    "data": "prepare corpora, materialise distorted test sets",
    "probe": "what can be read off a model's representations",
}
"""First words that call nothing by themselves."""

VERBS: Mapping[str, Verb] = {
    "demo": Verb(
        commands.run_demo,
        "everything once on synthetic speech, offline, in minutes",
        "distill demo --out demo",
        (out("folder for everything it makes (demo)", default=Path("demo")),),
    ),
    "train": Verb(
        commands.run_train,
        "distil a student, or pre-train a SPIRAL",
        "distill train s4 data.root=data trainer.devices=4\n  distill train spiral_mini\n"
        "  distill train --resume runs/s4\n"
        "  distill train s4 optim.max_steps=40000 --resume runs/s4 --override",
        training("s4, s4_prime, mini"),
    ),
    "adapt": Verb(
        commands.run_train,
        "pre-train a teacher, or adapt one to distorted speech",
        "distill adapt mini_teacher",
        training("t1_prime, mini_teacher"),
    ),
    "adapt targets": Verb(
        commands.run_targets,
        "the k-means targets of masked prediction",
        "distill adapt targets t1_prime data.root=data --out targets/t1_prime",
        TargetsOptions,
    ),
    "finetune": Verb(
        commands.run_train,
        "teach an encoder to write down what is said (CTC), and test it",
        "distill finetune finetune_base_100h data.root=data teacher=runs/spiral_base\n"
        "  distill finetune --resume runs/finetune_base_100h",
        training("finetune_base_100h, finetune_mini"),
    ),
    "profile": Verb(
        commands.run_profile,
        "where the time of a training step goes",
        "distill profile s4 data.root=data",
        (
            Argument("recipe", help="recipe's name (s4, s4_prime, mini) or YAML file"),
            overrides(),
            Argument("--steps", type=int, default=20, help="steps to measure, after 3 others (20)"),
        ),
    ),
    "inspect": Verb(
        commands.run_inspect,
        "what a checkpoint is",
        "distill inspect runs/s4",
        (Argument("checkpoint", help="file, run folder or hub id"),),
    ),
    "export": Verb(
        commands.run_export,
        "write a model in another library's format",
        "distill export runs/s4 --to huggingface --out s4-hf",
        (
            Argument("checkpoint", help="file or run folder of a student or teacher"),
            Argument(
                "--to",
                required=True,
                choices=("native", "huggingface", "s3prl", "onnx", "fairseq", "torchaudio"),
                help="format",
            ),
            out("folder, or the file itself, to write", required=True),
            Argument(
                "--results",
                type=Path,
                action="append",
                metavar="EVALUATIONS",
                help="folder of evaluations, whose scores go into the model card (huggingface); repeatable",
            ),
            Argument("--scores", type=Path, help="the same from a JSON file"),
            Argument("--license", metavar="ID", help="for the model card: apache-2.0, ... (huggingface)"),
            Argument(
                "--seconds",
                type=float,
                help="for one utterance of this length, padding included, with static shapes (onnx; any)",
            ),
            Argument("--push-to-hub", metavar="ORG/NAME", help="upload the folder too (huggingface)"),
        ),
    ),
    "evaluate": Verb(
        commands.run_evaluate,
        "train a SUPERB head on clean speech, test it clean and distorted",
        "distill evaluate ks --student runs/s4 --data data cache=float32",
        (
            Argument("task", help="ks, ic, er, asr, pr, slurp_action or slurp_scenario"),
            overrides(
                "protocol=paper|s3prl, variant=paper|authors, row=S1, cache=float16, steps, batch_size, lr, "
                "finetune=true, label, sources.train, lm, trainer.devices and more: docs/evaluation.md"
            ),
            Argument("--student", required=True, metavar="CKPT", help="student or teacher"),
            DATA,
            out("folder for heads and results (evaluations/NAME-HASH of the model)"),
            condition("to test under; repeat for several (all of the task's)"),
            Argument("--features", help="last, weighted_sum or layer:K (last)"),
            Argument("--seed", type=int, help="of the head and the distortions (0)"),
            NOISE,
        ),
    ),
    "sweep": Verb(
        commands.run_sweep,
        "many evaluations, without those that are done",
        "distill sweep runs/s1 runs/s4 --task ks --task ic --seed 0 --seed 1 --data data",
        (
            Argument("students", nargs="+", help="checkpoints, and key=value words for all evaluations"),
            Argument("--task", action="append", required=True, help="repeat for several"),
            Argument(
                "--condition", action="append", default=[], help="repeat for several (all of the task's)"
            ),
            Argument(
                "--features",
                action="append",
                default=[],
                help="last, weighted_sum or layer:K; repeat for several (last)",
            ),
            Argument("--seed", type=int, action="append", default=[], help="repeat for several (0)"),
            Argument(
                "--lr",
                type=float,
                action="append",
                default=[],
                help="learning rate; repeat for several: tables take the best one on dev (the task's)",
            ),
            DATA,
            out("folder of the sweep (evaluations)", default=Path("evaluations")),
            NOISE,
            Argument("--slurm", action="store_true", help="write a SLURM array instead of running"),
            Argument(
                "--sbatch", action="append", default=[], metavar="OPTION", help="such as --sbatch=--gpus=1"
            ),
            Argument("--submit", action="store_true", help="and hand it to sbatch"),
        ),
    ),
    "table": Verb(
        commands.run_table,
        "a paper's tables, ours next to its numbers",
        "distill table evaluations --format latex",
        (
            Argument(
                "folders",
                nargs="+",
                type=Path,
                metavar="RUN",
                help="folders of evaluations or sweeps; spiral: run folders of distill finetune",
            ),
            Argument(
                "--paper",
                choices=("cdm", "spiral"),
                default="cdm",
                help="cdm: Tables 1 and 2 of the CDM students; spiral: Tables 3 to 9 of SPIRAL (cdm)",
            ),
            Argument("--format", choices=("markdown", "csv", "latex"), default="markdown", help="(markdown)"),
            Argument("--measured", action="store_true", help="without rows of which nothing is measured"),
            *CHOICES,
        ),
    ),
    "report": Verb(
        commands.run_report,
        "one HTML page: tables, curves, robustness, analyses, sounds",
        "distill report runs/s1 runs/s4 evaluations --speech my_speech --noise musan=noises/",
        (
            Argument(
                "runs",
                nargs="+",
                type=Path,
                metavar="RUN",
                help="run folders, folders of evaluations or analyses",
            ),
            out("page to write (report.html)", default=Path("report.html")),
            Argument(
                "--speech", help="manifest, TSV or folder: one utterance to hear under every distortion"
            ),
            NOISE,
            Argument("--tsne", type=Path, help="picture to show too"),
            *CHOICES,
        ),
    ),
    "data prepare": Verb(
        commands.run_prepare,
        "from a corpus on disk to manifests",
        "distill data prepare librispeech --root /corpora --out data/librispeech\n"
        "  distill data prepare folder --root my_speech --out data/mine",
        (
            Argument(
                "corpus", help=f"{', '.join(CORPORA)}; where to get each, sizes and licences: docs/corpora.md"
            ),
            Argument("--root", type=Path, help="the corpus's folder, or the one that holds it"),
            out("folder for the manifests", required=True),
            Argument(
                "--split",
                action="append",
                metavar="NAME",
                help="only this part; repeat for several (all that exist)",
            ),
            Argument("--jobs", type=int, help="files whose headers are read at once (8)"),
            Argument(
                "--shards",
                metavar="PLACE",
                help="write the audio as Shar shards too: a folder, or s3://BUCKET/PATH",
            ),
        ),
    ),
    "data check": Verb(
        commands.run_check,
        "say what a recipe, or a task of evaluate, needs and lacks",
        "distill data check s4 data.root=data\n  distill data check ks data=data 'conditions=[clean,fsd]'",
        (
            Argument("recipe", help="recipe's name (s4, mini) or YAML file, or a task: ks, ic, er, asr, pr"),
            overrides("changes to the recipe; a task's words and data=FOLDER"),
            Argument(
                "--sample",
                type=sample_size,
                default=2000,
                metavar="N|all",
                help="files of each source to open, at random (2000); that they exist is checked for all",
            ),
            out("folder whose free disk space is checked (runs/NAME, evaluations)"),
        ),
    ),
    "data distort": Verb(
        commands.run_distort,
        "materialise a distorted copy of some speech",
        "distill data distort my_speech distorted --condition musan --noise musan=noises/",
        (
            Argument("speech", help="manifest, TSV or folder of audio"),
            Argument("out", type=Path, help="folder for FLAC files and distortions.tsv"),
            Argument(
                "--condition",
                default="2-dist",
                help="clean, 2-dist, fsd, dns, ns, or one alone: musan, reverb (2-dist)",
            ),
            Argument(
                "--variant",
                default="paper",
                help="paper, or authors: as the paper's authors' code distorts (paper)",
            ),
            NOISE,
            seed("another seed, other distortions"),
        ),
    ),
    "probe linear": Verb(
        commands.run_linear,
        "a linear classifier on the last layer, trained on clean speech",
        "distill probe linear runs/s1 runs/s4 --train 'kws.tsv?split=train' \\\n"
        "    --dev 'kws.tsv?split=dev' --test 'kws.tsv?split=test' --condition fsd --noise fsd=noises/",
        (
            CHECKPOINTS,
            *(
                Argument(f"--{split}", required=True, help="manifest, TSV or folder with classes")
                for split in ("train", "dev", "test")
            ),
            Argument("--label", default="label", help="column or custom field with the class (label)"),
            condition("to test under; repeat for several (clean, 2-dist)"),
            NOISE,
            seed("another seed, other distortions"),
        ),
    ),
    "probe invariance": Verb(
        commands.run_invariance,
        "cosine of each layer between clean and distorted speech",
        "distill probe invariance runs/t1 runs/t1_prime --speech my_speech \\\n"
        "    --condition fsd --noise fsd=noises/ --out invariance.png",
        (
            CHECKPOINTS,
            SPEECH,
            condition("to compare with clean; repeat for several (2-dist)"),
            NOISE,
            out("picture of the cosines by layer"),
            seed("of distortions and masks"),
        ),
    ),
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
    "completion": Verb(
        commands.run_completion,
        "print a script that lets the shell complete verbs, options and recipes",
        "distill completion bash > ~/.local/share/bash-completion/completions/distill\n"
        "  distill completion zsh > ~/.zfunc/_distill\n"
        "  distill completion fish > ~/.config/fish/completions/distill.fish",
        (Argument("shell", choices=("bash", "zsh", "fish"), help="the shell"),),
    ),
}
"""By the words that call it, in the order of the help."""
