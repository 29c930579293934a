"""How much is left: the planned time of what is to come, times the slowness of the machine so far."""

import pytest

from distill.cli.stages import Stages

PLANNED_S = {"data": 30.0, "teacher": 120.0, "s1": 60.0, "report": 60.0}


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines(capfd):
    """Runs stages that take so many seconds each; the lines about them."""

    def run(planned_s, took_s, **options):
        clock = Clock()
        stages = Stages(planned_s, clock=clock, **options)
        for stage, seconds in took_s.items():
            stages.begin(stage, stage)
            clock.now += seconds
        stages.finish("done")
        return capfd.readouterr().err.splitlines()

    return run


def test_a_machine_like_the_one_that_was_measured(lines):
    assert lines(PLANNED_S, PLANNED_S) == [
        "[0:00, about 4 min on two idle cores] data",  # 4.5, rounded to even
        "[0:30, about 4 min left] teacher",
        "[2:30, about 2 min left] s1",
        "[3:30, about 1 min left] report",
        "[4:30] done",
    ]


def test_a_slow_machine_takes_longer_by_what_it_took_so_far(lines):
    slow = {stage: 3 * seconds for stage, seconds in PLANNED_S.items()}
    assert lines(PLANNED_S, slow)[1:4] == [
        "[1:30, about 12 min left] teacher",
        "[7:30, about 6 min left] s1",
        "[10:30, about 3 min left] report",
    ]


def test_the_last_stages_say_most(lines):
    """Twice as fast first, then twice as slow: (30 + 120) / 2 / 2 + 240 over (60 + 120) / 2 / 2 + 120."""
    planned_s = {"a": 60.0, "b": 120.0, "c": 120.0, "d": 600.0}
    took_s = {"a": 30.0, "b": 60.0, "c": 240.0, "d": 1.0}
    slowness = ((30 / 2 + 60) / 2 + 240) / ((60 / 2 + 120) / 2 + 120)
    assert lines(planned_s, took_s)[3] == f"[5:30, about {round(600 * slowness / 60)} min left] d"


def test_what_an_earlier_call_did_says_nothing_about_the_machine(lines):
    """It finished the data and half the teacher."""
    took_s = {"data": 0.1, "teacher": 60.0, "s1": 120.0, "report": 120.0}
    assert lines(PLANNED_S | {"data": 0.0}, took_s, resumed={"data", "teacher"}) == [
        "[0:00, about 4 min on two idle cores] data",
        "[0:00, about 4 min on two idle cores] teacher",
        "[1:00, about 2 min on two idle cores] s1",
        "[3:00, about 2 min left] report",
        "[5:00] done",
    ]
