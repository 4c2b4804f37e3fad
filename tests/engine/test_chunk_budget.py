"""ChunkBudget: steps stay within the limit on machines of several kinds, and prompts get what time there is."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest

from stepahead.engine.chunk_budget import AIM, LONG_CONTEXT, MAX_GROWTH, MIN_ROWS, ChunkBudget

LIMIT = 200.0


def dense(rows: int) -> float:
    return 10.0 + 1.3 * rows


def experts(rows: int) -> float:
    """Each further row touches fewer new experts."""
    return 5.0 + 90.0 * (1.0 - 0.9**rows) + 0.4 * rows


@dataclass
class Machine:
    """Steps of some rows that decode and a chunk of a prompt; noise is a factor."""

    cost: Callable[[int], float] = dense
    noise: float = 0.0
    per_key: float = 0.0  # milliseconds a row and key
    budget: ChunkBudget = field(default_factory=lambda: ChunkBudget(LIMIT))
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def step(self, num_decode_rows: int, rows: int, keys: int = 0) -> float:
        milliseconds = self.cost(num_decode_rows + rows) + self.per_key * rows * (keys + rows / 2)
        milliseconds *= float(self.rng.lognormal(0.0, self.noise))
        self.budget.learn(num_decode_rows, [(rows, keys)] if rows else [], milliseconds)
        return milliseconds

    def decode(self, num_decode_rows: int, count: int = 20) -> None:
        for _ in range(count):
            self.step(num_decode_rows, 0)

    def prompt(self, num_decode_rows: int, length: int, start: int = 0) -> list[tuple[int, float]]:
        """(rows, milliseconds) of each step that a prompt takes beside those who decode."""
        steps, done = [], start
        while done < start + length:
            rows = max(1, int(self.budget.units(num_decode_rows) / self.budget.weight(done)))
            rows = min(rows, start + length - done, 512)
            steps.append((rows, self.step(num_decode_rows, rows, done)))
            done += rows
        return steps


@pytest.mark.parametrize("cost", [dense, experts])
@pytest.mark.parametrize("num_decode_rows", [1, 4, 16])
def test_no_step_is_longer_than_the_limit_and_none_is_wasted(cost, num_decode_rows) -> None:
    machine = Machine(cost)
    machine.decode(num_decode_rows)
    steps = machine.prompt(num_decode_rows, 4000)
    assert max(milliseconds for _, milliseconds in steps) < 1.1 * AIM * LIMIT
    settled = [milliseconds for _, milliseconds in steps[6:-1]]
    assert sorted(settled)[1] > 0.8 * AIM * LIMIT  # but for the first behind a longer context than was known


def test_noise_costs_little() -> None:
    machine = Machine(noise=0.1)
    machine.decode(2)
    times = [milliseconds for _, milliseconds in machine.prompt(2, 20000)]
    assert np.mean(times) > 0.8 * LIMIT
    assert np.percentile(times, 95) < 1.3 * LIMIT


def test_it_begins_with_few_rows_and_grows_as_it_learns() -> None:
    machine = Machine(lambda rows: 1.0 + 0.1 * rows)
    machine.decode(1)
    sizes = [rows for rows, _ in machine.prompt(1, 2000)]
    assert sizes[0] == MIN_ROWS
    assert all(after <= MAX_GROWTH * before for before, after in pairwise(sizes))
    assert max(sizes) == 512 and len(sizes) < 10


def test_rows_behind_a_long_context_are_fewer() -> None:
    machine = Machine(per_key=0.0005)
    machine.decode(1)
    machine.prompt(1, 1000)
    steps = machine.prompt(1, 30000)
    assert max(milliseconds for _, milliseconds in steps) < 1.25 * LIMIT
    assert np.mean([milliseconds for _, milliseconds in steps]) > 0.75 * LIMIT
    assert steps[-2][0] < 0.2 * steps[0][0]
    again = machine.prompt(1, 1000)  # what a long context taught is not held against a short one
    assert np.mean([rows for rows, _ in again[:-1]]) > 60


def test_a_context_that_nobody_knows_is_taken_to_be_dear() -> None:
    machine = Machine(per_key=0.0005)
    machine.decode(1)
    machine.prompt(1, 1000)
    jump = machine.prompt(1, 2000, start=20000)  # a prefix that another turn had run
    assert max(milliseconds for _, milliseconds in jump) < 1.1 * LIMIT
    assert machine.budget.weight(20000) > 4.0
    assert ChunkBudget(LIMIT).weight(LONG_CONTEXT - 1) == 1.0


@pytest.mark.parametrize("plain", [150.0, 600.0])
def test_where_steps_are_slow_anyway_a_prompt_still_ends(plain) -> None:
    machine = Machine(lambda rows: plain + 20.0 * (rows - 1))
    machine.decode(1)
    steps = machine.prompt(1, 300)
    assert max(milliseconds for _, milliseconds in steps) < 1.1 * max(LIMIT, 2 * plain)
    assert np.mean([milliseconds for _, milliseconds in steps]) > 0.7 * max(LIMIT, 2 * plain)


def test_a_machine_that_cannot_hold_the_limit_gets_on_row_by_row() -> None:
    machine = Machine(lambda rows: 10.0 + 500.0 * (rows - 1))
    machine.decode(1)
    assert [rows for rows, _ in machine.prompt(1, 10)][1:] == [1] * 6


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_disturbed_step_is_forgotten(number) -> None:
    """Also the first of its size, of which nothing else is known."""
    machine = Machine()
    machine.decode(1)
    sizes = [4, 16, 64, 128]
    for index, rows in enumerate(sizes):
        factor = 30.0 if index == number else 1.0
        machine.budget.learn(1, [(rows, 0)], factor * dense(rows + 1))
    steps = machine.prompt(1, 3000)
    assert steps[-2][1] > 0.7 * LIMIT


def test_noise_never_makes_rows_free() -> None:
    budget = ChunkBudget(LIMIT)
    budget.learn(1, [], 50.0)
    budget.learn(1, [(64, 0)], 10.0)  # faster than without the prompt
    assert budget.units(1) <= MAX_GROWTH * 64


def test_without_a_limit_nothing_is_limited() -> None:
    assert ChunkBudget(None).units(1) == math.inf


def test_steps_without_anybody_to_wait_teach_nothing() -> None:
    budget = ChunkBudget(LIMIT)
    budget.learn(0, [(512, 0)], 10.0)
    assert budget.units(1) == MIN_ROWS
