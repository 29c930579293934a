"""The `distill` command. Verbs parse and delegate; what they do lives in the library."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from distill.adaptation.targets_options import TargetsOptions
from distill.cli import commands
from distill.cli.fields import add_fields

EXAMPLES = {
    "demo": "distill demo --out demo",
    "train": "distill train s4 data.root=data trainer.devices=4\n  distill train --resume runs/s4\n"
    "  distill train s4 optim.max_steps=40000 --resume runs/s4 --override",
    "profile": "distill profile s4 data.root=data",
    "adapt": "distill adapt mini_teacher",
    "adapt targets": "distill adapt targets t1_prime data.root=data --out targets/t1_prime",
    "inspect": "distill inspect runs/s4",
    "export": "distill export runs/s4 --to huggingface --out s4-hf",
    "data prepare": "distill data prepare librispeech --root /corpora --out data/librispeech\n"
    "  distill data prepare folder --root my_speech --out data/mine",
    "data check": "distill data check s4 data.root=data\n"
    "  distill data check ks data=data 'conditions=[clean,fsd]'",
    "data distort": "distill data distort my_speech distorted --condition musan --noise musan=noises/",
    "probe linear": "distill probe linear runs/s1 runs/s4 --train 'kws.tsv?split=train' \\\n"
    "    --dev 'kws.tsv?split=dev' --test 'kws.tsv?split=test' --condition fsd --noise fsd=noises/",
    "probe invariance": "distill probe invariance runs/t1 runs/t1_prime --speech my_speech \\\n"
    "    --condition fsd --noise fsd=noises/ --out invariance.png",
    "evaluate": "distill evaluate ks --student runs/s4 --data data cache=float32",
    "sweep": "distill sweep runs/s1 runs/s4 --task ks --task ic --seed 0 --seed 1 --data data",
    "table": "distill table evaluations --format latex",
    "report": "distill report runs/s1 runs/s4 evaluations --speech my_speech --noise musan=noises/",
    "tsne": "distill tsne runs/s1 runs/s4 --speech data/mini/speech_test.jsonl.gz --out tsne.png",
}


def build_parser() -> argparse.ArgumentParser:
    """All verbs with their options."""
    from distill import __version__

    parser = argparse.ArgumentParser(
        prog="distill", description="Distil HuBERT into a small speech model that keeps working in noise."
    )
    parser.add_argument("--version", action="version", version=f"distill {__version__}")
    parser.set_defaults(run=None)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")

    demo = add_verb(
        verbs, "demo", "the whole story on synthetic speech, offline, in minutes", commands.run_demo
    )
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything it makes (demo)")

    train = add_verb(verbs, "train", "distil a student", commands.run_train)
    train.set_defaults(verb="train")
    add_run_options(train, "recipe's name (s4, s4_prime, mini) or YAML file")

    adapt = add_verb(
        verbs, "adapt", "pre-train a teacher, or adapt one to distorted speech", commands.run_train
    )
    adapt.set_defaults(verb="adapt")
    add_run_options(adapt, "recipe's name (t1_prime, mini_teacher) or YAML file")
    add_targets(verbs)

    profile = add_verb(verbs, "profile", "where the time of a training step goes", commands.run_profile)
    profile.add_argument("recipe", help="recipe's name (s4, s4_prime, mini) or YAML file")
    profile.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    profile.add_argument("--steps", type=int, default=20, help="steps to measure, after 3 others (20)")

    inspect = add_verb(verbs, "inspect", "what a checkpoint is", commands.run_inspect)
    inspect.add_argument("checkpoint", help="file, run folder or hub id")

    export = add_verb(verbs, "export", "write a model in another library's format", commands.run_export)
    export.add_argument("checkpoint", help="file or run folder of a student or teacher")
    export.add_argument(
        "--to",
        required=True,
        choices=("native", "huggingface", "s3prl", "onnx", "fairseq", "torchaudio"),
        help="format",
    )
    export.add_argument("--out", type=Path, required=True, help="folder, or the file itself, to write")
    export.add_argument("--scores", type=Path, help="JSON of scores for the model card (huggingface)")
    export.add_argument("--push-to-hub", metavar="ORG/NAME", help="upload the folder too (huggingface)")

    add_evaluations(verbs)

    data = verbs.add_parser("data", help="prepare corpora, materialise distorted test sets")
    data.set_defaults(run=lambda _: data.print_help())
    data_verbs = data.add_subparsers(title="verbs", metavar="VERB")
    add_prepare(data_verbs)
    check = add_verb(
        data_verbs,
        "data check",
        "say what a recipe, or a task of evaluate, needs and lacks",
        commands.run_check,
    )
    check.add_argument("recipe", help="recipe's name (s4, mini) or YAML file, or a task: ks, ic, er, asr, pr")
    check.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes to the recipe; a task's words and data=FOLDER",
    )
    check.add_argument(
        "--sample",
        type=sample_size,
        default=2000,
        metavar="N|all",
        help="files of each source to open, at random (2000); that files are there is asked for all",
    )
    check.add_argument("--out", type=Path, help="folder whose disk is asked about (runs/NAME, evaluations)")

    distort = add_verb(
        data_verbs, "data distort", "materialise a distorted copy of some speech", commands.run_distort
    )
    distort.add_argument("speech", help="manifest, TSV or folder of audio")
    distort.add_argument("out", type=Path, help="folder for FLAC files and distortions.tsv")
    distort.add_argument(
        "--condition",
        default="2-dist",
        help="clean, 2-dist, fsd, dns, or one alone: musan, reverb (2-dist)",
    )
    distort.add_argument(
        "--variant", default="paper", help="paper, or authors: as the paper's authors' code distorts (paper)"
    )
    add_noise_option(distort)
    distort.add_argument("--seed", type=int, default=0, help="another seed, other distortions (0)")

    probe = verbs.add_parser("probe", help="what can be read off a model's representations")
    probe.set_defaults(run=lambda _: probe.print_help())
    probe_verbs = probe.add_subparsers(title="verbs", metavar="VERB")
    linear = add_verb(
        probe_verbs,
        "probe linear",
        "a linear classifier on the last layer, trained on clean speech",
        commands.run_linear,
    )
    linear.add_argument("checkpoints", nargs="+", help="students or teachers")
    for split in ("train", "dev", "test"):
        linear.add_argument(f"--{split}", required=True, help="manifest, TSV or folder with classes")
    linear.add_argument("--label", default="label", help="column or custom field with the class (label)")
    linear.add_argument(
        "--condition", action="append", help="to test under; repeat for several (clean, 2-dist)"
    )
    add_noise_option(linear)
    linear.add_argument("--seed", type=int, default=0, help="another seed, other distortions (0)")

    invariance = add_verb(
        probe_verbs,
        "probe invariance",
        "cosine of each layer between clean and distorted speech",
        commands.run_invariance,
    )
    invariance.add_argument("checkpoints", nargs="+", help="students or teachers")
    invariance.add_argument("--speech", required=True, help="manifest, TSV or folder of audio")
    invariance.add_argument(
        "--condition", action="append", help="to compare with clean; repeat for several (2-dist)"
    )
    add_noise_option(invariance)
    invariance.add_argument("--out", type=Path, help="picture of the cosines by layer")
    invariance.add_argument("--seed", type=int, default=0, help="of distortions and masks (0)")

    tsne = add_verb(verbs, "tsne", "draw the last layer, clean and distorted (Fig. 2)", commands.run_tsne)
    tsne.add_argument("checkpoints", nargs="+", help="students or teachers")
    tsne.add_argument("--speech", required=True, help="manifest, TSV or folder of audio")
    add_noise_option(tsne)
    tsne.add_argument("--out", type=Path, default=Path("tsne.png"), help="picture to write (tsne.png)")
    tsne.add_argument("--seed", type=int, default=0, help="of distortions and t-SNE (0)")
    return parser


def add_verb(verbs: Any, name: str, help: str, run: Any, word: str | None = None) -> argparse.ArgumentParser:
    """A verb with its help and example; `word` is what calls it, if not the last word of its name."""
    parser = verbs.add_parser(
        word or name.split()[-1],
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_evaluations(verbs: Any) -> None:
    """`distill evaluate`, `distill sweep`, `distill table`, `distill report`."""
    evaluate = add_verb(
        verbs,
        "evaluate",
        "train a SUPERB head on clean speech, test it clean and distorted",
        commands.run_evaluate,
    )
    evaluate.add_argument("task", help="ks, ic, er, asr, pr, slurp_action or slurp_scenario")
    evaluate.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="protocol=paper|s3prl, variant=paper|authors, row=S1, cache=float16, steps, batch_size, lr, "
        "finetune=true, label, sources.train, lm, trainer.devices and more: docs/evaluation.md",
    )
    evaluate.add_argument("--student", required=True, metavar="CKPT", help="student or teacher")
    evaluate.add_argument("--data", help="folder of the prepared corpora (data)")
    evaluate.add_argument(
        "--out", type=Path, help="folder for heads and results (evaluations/NAME-HASH of the model)"
    )
    evaluate.add_argument(
        "--condition", action="append", help="to test under; repeat for several (all of the task's)"
    )
    evaluate.add_argument("--features", help="last, weighted_sum or layer:K (last)")
    evaluate.add_argument("--seed", type=int, help="of the head and the distortions (0)")
    add_noise_option(evaluate)

    sweep = add_verb(verbs, "sweep", "many evaluations, without those that are done", commands.run_sweep)
    sweep.add_argument("students", nargs="+", help="checkpoints, and key=value words for all evaluations")
    sweep.set_defaults(overrides=[])  # what follows the first option
    sweep.add_argument("--task", action="append", required=True, help="repeat for several")
    sweep.add_argument(
        "--condition", action="append", default=[], help="repeat for several (all of the task's)"
    )
    sweep.add_argument(
        "--features",
        action="append",
        default=[],
        help="last, weighted_sum or layer:K; repeat for several (last)",
    )
    sweep.add_argument("--seed", type=int, action="append", default=[], help="repeat for several (0)")
    sweep.add_argument(
        "--lr",
        type=float,
        action="append",
        default=[],
        help="learning rate; repeat for several: tables take the one that is best on dev (the task's)",
    )
    sweep.add_argument("--data", help="folder of the prepared corpora (data)")
    sweep.add_argument(
        "--out", type=Path, default=Path("evaluations"), help="folder of the sweep (evaluations)"
    )
    add_noise_option(sweep)
    sweep.add_argument("--slurm", action="store_true", help="write a SLURM array in place of running")
    sweep.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="such as --sbatch=--gpus=1"
    )
    sweep.add_argument("--submit", action="store_true", help="and hand it to sbatch")

    table = add_verb(verbs, "table", "Tables 1 and 2, ours beside the paper's", commands.run_table)
    table.add_argument(
        "folders", nargs="+", type=Path, metavar="RUN", help="folders of evaluations or sweeps"
    )
    table.add_argument(
        "--format", choices=("markdown", "csv", "latex"), default="markdown", help="(markdown)"
    )
    table.add_argument("--measured", action="store_true", help="without rows of which nothing is measured")
    add_choices(table)

    report = add_verb(
        verbs, "report", "one HTML page: tables, curves, robustness, sounds", commands.run_report
    )
    report.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folders, folders of evaluations"
    )
    report.add_argument("--out", type=Path, default=Path("report.html"), help="page to write (report.html)")
    report.add_argument(
        "--speech", help="manifest, TSV or folder: one utterance to hear under every distortion"
    )
    add_noise_option(report)
    report.add_argument("--tsne", type=Path, help="picture to show too")
    add_choices(report)


def add_choices(parser: argparse.ArgumentParser) -> None:
    """What the numbers of tables follow, where results of several are there."""
    parser.add_argument("--protocol", metavar="NAME", help="only results of this one: paper, s3prl")
    parser.add_argument("--variant", metavar="NAME", help="only with distortions as: paper, authors")


def add_targets(verbs: Any) -> None:
    """`distill adapt targets`."""
    targets = add_verb(
        verbs,
        "adapt targets",
        "the k-means targets of masked prediction",
        commands.run_targets,
        "adapt targets",
    )
    add_fields(targets, TargetsOptions)


def add_prepare(verbs: Any) -> None:
    """`distill data prepare`."""
    from distill.data_prep import CORPORA

    prepare = add_verb(verbs, "data prepare", "from a corpus on disk to manifests", commands.run_prepare)
    prepare.add_argument(
        "corpus", help=f"{', '.join(CORPORA)}; where to get each, sizes and licences: docs/corpora.md"
    )
    prepare.add_argument("--root", type=Path, help="the corpus's folder, or the one that holds it")
    prepare.add_argument("--out", type=Path, required=True, help="folder for the manifests")
    prepare.add_argument(
        "--split",
        action="append",
        metavar="NAME",
        help="only this part; repeat for several (all that is there)",
    )
    prepare.add_argument("--jobs", type=int, help="files whose headers are read at once (8)")
    prepare.add_argument(
        "--shards", metavar="PLACE", help="write the audio as Shar shards too: a folder, or s3://BUCKET/PATH"
    )


def sample_size(text: str) -> int | None:
    """A positive number, or None for "all"."""
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a positive number nor all")
    return int(text)


def add_run_options(parser: argparse.ArgumentParser, what: str) -> None:
    """The options that every training verb has."""
    parser.add_argument("recipe", nargs="?", help=what)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    parser.add_argument("--out", type=Path, help="run folder (runs/NAME)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with an interrupted run")
    parser.add_argument(
        "--override", action="store_true", help="with --resume: go on although the recipe has changed"
    )
    parser.add_argument("--print", action="store_true", help="print the resolved recipe and stop")


def add_noise_option(parser: argparse.ArgumentParser) -> None:
    """Where noise is, for verbs that distort."""
    parser.add_argument(
        "--noise",
        action="append",
        default=[],
        metavar="CORPUS=SOURCE",
        help="where musan, wham, fsd, dns or rir recordings are; repeat for several",
    )
