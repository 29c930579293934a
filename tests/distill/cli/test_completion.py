"""Scripts for shells: they are valid, and complete what `distill` takes."""

import shutil
import subprocess

import pytest

from distill.cli.completion import SHELLS, completion_script
from distill.cli.parser import build_parser
from distill.cli.verbs import GROUPS, VERBS
from distill.config import recipe_names
from distill.downstream.tasks import TASKS


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "distill"
    path.write_text(completion_script(build_parser(), "bash"))
    return path


def complete(script, *words: str) -> set[str]:
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    code = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _shtab_distill"
    code += '; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_a_script_that_its_shell_can_read(distill, tmp_path, shell):
    code, out, _ = distill("completion", shell)
    assert code == 0 and all(word in out for word in ("s4_prime", "invariance", "distill"))
    if shutil.which(shell):
        (tmp_path / "script").write_text(out)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_verbs_are_completed(bash_script):
    assert complete(bash_script, "distill", "") >= {words.split()[0] for words in VERBS}
    assert complete(bash_script, "distill", "tr") == {"train"}
    for group in GROUPS:
        inner = {words.split()[1] for words in VERBS if words.startswith(f"{group} ")}
        assert complete(bash_script, "distill", group, "") == inner


def test_recipes_and_tasks_are_completed(bash_script):
    assert complete(bash_script, "distill", "train", "") >= set(recipe_names())
    assert complete(bash_script, "distill", "train", "s4") == {
        n for n in recipe_names() if n.startswith("s4")
    }
    assert complete(bash_script, "distill", "evaluate", "") >= set(TASKS)
    assert "targets" in complete(bash_script, "distill", "adapt", "t")


def test_options_and_their_choices_are_completed(bash_script):
    assert complete(bash_script, "distill", "sweep", "--s") == {"--seed", "--slurm", "--sbatch", "--submit"}
    assert complete(bash_script, "distill", "export", "x", "--to", "on") == {"onnx"}
    assert "--export-fairseq" in complete(bash_script, "distill", "adapt", "targets", "--e")
