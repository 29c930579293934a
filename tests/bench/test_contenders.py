"""What is timed takes turns; what cannot run says why."""

import pytest

from bench.contenders import Contender, cpu_seconds, take_turns


def test_contenders_take_turns_and_are_warmed_up():
    calls: list[tuple[str, int]] = []

    def contender(name: str) -> Contender:
        def run(number: int) -> None:
            calls.append((name, number))
            sum(range(1_000_000))  # some CPU time, so that there is a speed

        return Contender(name, lambda: run, audio_s=1.0)

    one, other = contender("one"), contender("other")
    take_turns(iter([one, other]), 2)
    first, second = [("one", 0), ("one", 1)], [("other", 0), ("other", 1)]
    assert calls[:2] == [("one", 0), ("other", 0)]
    assert calls[2:6] == first + second
    assert [name for name, _ in calls[6:]] == ["other", "other", "one", "one"]  # the second begins
    assert len(one.speeds) == len(other.speeds) == 2 and min(one.speeds) > 0


def test_a_contender_that_cannot_run_says_why_in_one_line():
    def make():
        raise ImportError("no module\n  named that")

    contender = Contender("missing", make, audio_s=1.0)
    take_turns([contender], 3)
    assert (contender.failure, contender.speeds) == ("no module named that", [])


def test_what_must_run_does_not_fail_quietly():
    def make():
        raise ImportError("broken")

    with pytest.raises(ImportError, match="broken"):
        take_turns([Contender("ours", make, audio_s=1.0, optional=False)], 1)


def test_cpu_time_does_not_run_backwards():
    assert 0 < cpu_seconds() <= cpu_seconds()
