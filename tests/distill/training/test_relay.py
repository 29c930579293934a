"""Runs take turns, and each has its own random numbers."""

import random
import threading

import numpy as np
import torch

from distill.training.relay import Relay


def draw() -> tuple[float, ...]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_one_run_goes_on_at_a_time_and_random_numbers_are_its_own():
    relay, order = Relay(3), []
    drawn: dict[int, list[tuple[float, ...]]] = {0: [], 1: [], 2: []}

    def seed(run: int) -> None:
        random.seed(run), np.random.seed(run), torch.manual_seed(run)

    def work(run: int) -> None:
        relay.wait_for_turn(run)
        seed(run)
        for _ in range(2 if run == 1 else 3):
            order.append(run)
            drawn[run].append(draw())
            relay.pass_on(run)
        relay.leave(run)

    threads = [threading.Thread(target=work, args=(run,)) for run in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert order == [0, 1, 2, 0, 1, 2, 0, 2]
    for run, numbers in drawn.items():
        seed(run)
        assert numbers == [draw() for _ in numbers]


def test_the_run_with_the_fewest_batches_is_next():
    relay = Relay(3)
    relay.batches |= {0: 4, 1: 5, 2: 4}
    for holder, following in ((0, 2), (1, 2), (2, 0)):
        relay._hand_over(holder)
        assert relay._holder == following
    relay.leave(2)
    relay.leave(0)
    assert relay.pass_on(1) == 0.0
    relay.leave(1)
    assert relay._holder is None
