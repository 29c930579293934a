"""Sources of sound, and a report of everything."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.analysis.report import make_report
from tests.analysis.made_runs import NASTY, write_analysis, write_head, write_results, write_run
from tests.downstream.conftest import quick, student, task_data  # noqa: F401  # fixtures


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> dict[str, str]:
    """Speech of 1, 3.4 and 9 s, and noises."""
    root = tmp_path_factory.mktemp("sources")
    generator = np.random.default_rng(0)
    lengths = {"speech": (16_000, 54_400, 144_000), "fsd": (20_000,), "musan": (20_000,), "wham": (20_000,)}
    for name, sizes in lengths.items():
        (root / name).mkdir()
        for n_samples in sizes:
            samples = 0.1 * generator.standard_normal(n_samples)
            soundfile.write(root / name / f"{n_samples}.wav", samples, 16_000, subtype="PCM_16")
    return {name: str(root / name) for name in lengths}


@pytest.fixture(scope="session")
def page(tmp_path_factory, sources) -> Path:
    """A report of everything, with names that try to break it."""
    from matplotlib.image import imsave

    root = tmp_path_factory.mktemp("report")
    runs = [
        write_run(root / NASTY.replace("/", "")),
        write_run(root / ("s1" * 40), n_steps=30_000),
        write_run(root / "_teacher", kind="adapt"),
        root / "sweep",
    ]
    imsave(runs[0] / "tsne.png", np.random.default_rng(0).random((200, 600, 3)))
    write_results(root / "sweep" / "s4" / "ks")
    write_head(root / "sweep" / NASTY.replace("/", "") / "heads" / "ks-last-seed0", [50, 40])
    write_analysis(root / "analyses" / NASTY.replace("/", ""), rows=150)
    write_analysis(root / "analyses" / "tsne", kind="tsne", rows=2)
    runs.append(root / "analyses")
    noises = {name: [sources[name]] for name in ("fsd", "musan", "wham")}
    return make_report(runs, root / "new" / "report.html", speech=sources["speech"], noises=noises)
