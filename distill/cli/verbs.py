"""The verbs of `distill`: what runs them, their help, an example and their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distill.adaptation.targets_options import TargetsOptions
from distill.cli import commands
from distill.cli.analysis_verbs import ANALYSES
from distill.cli.arguments import (
    CHECKPOINTS,
    CHOICES,
    DATA,
    NOISE,
    REPLAY,
    SEEDS,
    SPEECH,
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
        "  distill train s4 optim.max_steps=40000 --resume runs/s4 --override\n"
        "  distill train s2 s4 s6 --seeds 0 1 2 data.order_seed=0",
        training("s4, s4_prime, mini", SEEDS, REPLAY, together="; several students train together"),
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
            Argument(
                "--against",
                metavar="ROW",
                help="differences of all rows to this one, with intervals over utterances and seeds",
            ),
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
    **ANALYSES,
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
