"""The small kernels of a cycle against plain Python: rows of passes, drafts, verdicts."""

import numpy as np
import pytest

pytest.importorskip("triton")
import torch

from backends.cuda.kernel_cases import DEVICE, LAUNCH, on_device, on_host
from stepahead.backends.base import BLOCK_SIZE
from stepahead.backends.cuda.cycle_tensors import RING, CycleTensors
from stepahead.backends.cuda.kernels.cycle_rows import TRUNK, cycle_rows
from stepahead.backends.cuda.kernels.judge import judge
from stepahead.backends.cuda.kernels.keep_draft import keep_draft
from stepahead.backends.cuda.kernels.keep_rows import keep_rows
from stepahead.backends.cuda.sampling import SampledRows

WIDTH = 5
VOCAB = 50
MAX_RECORDED = 8


def ints(*values: object) -> torch.Tensor:
    return on_device(np.array(values, np.int32))


def new_state(positions: list[int], depth: int, rng: np.random.Generator) -> CycleTensors:
    """Whose heads have any number of rows to run."""
    n, heads = len(positions), max(depth, 1)
    lags = [[rng.integers(0, depth - head + 1) for _ in positions] for head in range(heads)] if depth else [[0] * n]
    return CycleTensors(
        running=ints(*[1] * n),
        position=ints(*positions),
        next_row=ints(*(np.array(positions) - np.array(lags))),
        first_key=ints(*[[5 + head] * n for head in range(heads)]),
        token_ids=on_device(rng.integers(0, VOCAB, (n, RING), dtype=np.int32)),
        recorded_start=ints(*[0] * n),
        recorded_count=ints(*[0] * n),
        recorded_ids=on_device(rng.integers(0, VOCAB, (n, MAX_RECORDED), dtype=np.int32)),
        is_right=on_device(rng.integers(-1, 2, (heads, n, MAX_RECORDED)).astype(np.int8)),
        record=ints(*np.full((n, 3 * depth + 2), 77)),
    )


def copied(state: CycleTensors) -> dict[str, np.ndarray]:
    return {name: on_host(getattr(state, name)) for name in CycleTensors.__slots__}


def run_rows(
    state: CycleTensors, head: int, tables: np.ndarray, window: int | None
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    num_rows = state.num_sequences * (state.depth + 1)
    num_logits = num_rows if head == TRUNK else state.num_sequences
    inputs = {name: ints(*[-9] * num_rows) for name in ("token_ids", "positions", "sequences", "first_keys", "slots")}
    inputs["logit_rows"] = ints(*[-9] * num_logits)
    inputs["sample_positions"] = torch.full((num_logits,), -9, dtype=torch.int64, device=DEVICE)
    sources, targets = ints(*[-9] * num_rows), ints(*[-9] * num_rows)
    cycle_rows(LAUNCH, state, head, on_device(tables), window, inputs, sources, targets)
    return {name: on_host(values) for name, values in inputs.items()}, on_host(sources), on_host(targets)


@pytest.mark.parametrize(("depth", "window"), [(0, None), (1, 8), (3, None), (3, 8)])
def test_rows_of_the_trunk(depth: int, window: int | None) -> None:
    rng = np.random.default_rng(depth)
    positions = [63, 130, 31]
    state = new_state(positions, depth, rng)
    tables = rng.permutation(4 * WIDTH).reshape(4, WIDTH).astype(np.int32)
    inputs, _, targets = run_rows(state, TRUNK, tables, window)
    rows = [(number, position + i) for number, position in enumerate(positions) for i in range(depth + 1)]
    assert inputs["positions"].tolist() == [p for _, p in rows]
    assert inputs["sequences"].tolist() == [s for s, _ in rows]
    assert inputs["token_ids"].tolist() == [on_host(state.token_ids)[s, p % RING] for s, p in rows]
    assert inputs["slots"].tolist() == [tables[s, p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for s, p in rows]
    assert inputs["first_keys"].tolist() == [0 if window is None else max(0, p - window + 1) for _, p in rows]
    assert inputs["logit_rows"].tolist() == list(range(len(rows)))
    assert inputs["sample_positions"].tolist() == [p + 1 for _, p in rows]
    assert targets.tolist() == [s * RING + p % RING for s, p in rows]
    assert on_host(state.running).all()


@pytest.mark.parametrize("head", range(3))
def test_rows_of_a_head_and_their_padding(head: int) -> None:
    depth, window = 3, 8
    rng = np.random.default_rng(head)
    positions = [64, 126, 33, 9]
    state = new_state(positions, depth, rng)
    tables = rng.permutation(4 * WIDTH).reshape(4, WIDTH).astype(np.int32)
    inputs, sources, targets = run_rows(state, head, tables, window)
    for number, position in enumerate(positions):
        first, last = int(on_host(state.next_row)[head, number]), position + head
        own = slice(number * (depth + 1), (number + 1) * (depth + 1))
        wanted = [min(first + i, last) for i in range(depth + 1)]
        is_real = [first + i <= last for i in range(depth + 1)]
        assert inputs["positions"][own].tolist() == wanted
        assert inputs["sequences"][own].tolist() == [number] * (depth + 1)
        assert inputs["token_ids"][own].tolist() == [on_host(state.token_ids)[number, p % RING] for p in wanted]
        assert inputs["first_keys"][own].tolist() == [max(5 + head, p - window + 1) for p in wanted]
        slots = [tables[number, p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for p in wanted]
        assert inputs["slots"][own].tolist() == [s if real else -1 for s, real in zip(slots, is_real, strict=True)]
        assert sources[own].tolist() == [number * RING + (p - 1) % RING for p in wanted]
        kept = [number * RING + p % RING for p in wanted]
        assert targets[own].tolist() == [p if real else -1 for p, real in zip(kept, is_real, strict=True)]
        assert inputs["logit_rows"][number] == number * (depth + 1) + last - first
        assert inputs["sample_positions"][number] == last + 1


@pytest.mark.parametrize("head", [TRUNK, 1])
def test_a_sequence_without_a_block_is_stopped(head: int) -> None:
    """Where its table ends, and where it has a hole; and one that stood still before."""
    state = new_state([10, WIDTH * BLOCK_SIZE - 1, 3 * BLOCK_SIZE - 1, 30], 2, np.random.default_rng(0))
    state.running[3] = 0
    tables = np.arange(4 * WIDTH, dtype=np.int32).reshape(4, WIDTH)
    tables[2, 3] = -1
    inputs, _, targets = run_rows(state, head, tables, None)
    assert on_host(state.running).tolist() == [1, 0, 0, 0]
    assert inputs["sequences"].tolist() == [0] * 3 + [-1] * 9
    assert (inputs["slots"][3:] == -1).all() and (targets[3:] == -1).all()
    assert (inputs["slots"][:2] >= 0).all()
    assert (inputs["token_ids"] >= 0).all() and (inputs["positions"] >= 0).all()


def test_drafts_are_the_heads_or_as_right_as_a_recording_wants_them() -> None:
    depth, head, n = 2, 1, 6
    state = new_state([40] * n, depth, np.random.default_rng(0))
    state.running[5] = 0
    state.recorded_start[:] = 40
    state.recorded_count[:] = ints(3, 3, 3, 3, 2, 3)  # the draft's entry is number 2
    state.recorded_ids[:, 2] = ints(7, 7, VOCAB - 1, 7, 7, 7)
    state.is_right[head, :, 2] = on_device(np.array([1, 0, 0, -1, 1, 1], np.int8))
    before = copied(state)
    sampled = SampledRows(ints(9, 9, VOCAB - 1, -1, 9, 9), on_device(np.array([0.5, 1.5, np.inf, 0.0, 2.5, 3.5])))
    keep_draft(LAUNCH, state, head, sampled, VOCAB)
    after = copied(state)
    assert after["token_ids"][:, 42 % RING].tolist() == [7, 9, 0, 0, 9, before["token_ids"][5, 42 % RING]]
    assert after["record"][:, 5].tolist() == [7, 9, 0, 0, 9, 77]
    margins = np.ascontiguousarray(after["record"][:5, 7]).view(np.float32)
    assert margins.tolist() == [0.5, 1.5, np.inf, 0.0, 2.5]
    after["token_ids"][:, 42 % RING] = before["token_ids"][:, 42 % RING]
    after["record"][:, [5, 7]] = 77
    assert all((after[name] == before[name]).all() for name in after)


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 7])
def test_verdicts(depth: int) -> None:
    """Whatever was drafted, chosen, recorded and undecided, in one launch."""
    rng = np.random.default_rng(depth)
    n = 16
    state = new_state([60 + number for number in range(n)], depth, rng)
    chosen = rng.integers(0, VOCAB, (n, depth + 1), dtype=np.int32)
    drafts = np.where(rng.random((n, depth)) < 0.8, chosen[:, :depth], 1 + chosen[:, :depth])
    chosen[rng.random((n, depth + 1)) < 0.1] = -1
    state.record[:, depth + 2 : 2 * depth + 2] = on_device(drafts.astype(np.int32))
    state.running[3] = 0
    state.recorded_count[:4] = ints(2, 8, 8, 8)
    state.recorded_start[:4] = ints(60, 61 - 3, 65, 0)
    before = copied(state)
    judge(LAUNCH, state, on_device(chosen.reshape(-1)))
    after = copied(state)
    outcomes = set()
    for number in range(n):
        position = 60 + number
        entries = position + 1 + np.arange(depth + 1) - before["recorded_start"][number]
        known = (entries >= 0) & (entries < before["recorded_count"][number])
        choices = np.where(known, before["recorded_ids"][number, np.where(known, entries, 0)], chosen[number])
        accepted = next((i for i in range(depth) if choices[i] != drafts[number, i]), depth)
        runs = number != 3 and choices[accepted] >= 0
        outcomes.add(accepted if runs else -1)
        assert after["running"][number] == runs
        assert after["record"][number, 0] == (accepted if runs else -1)
        assert after["record"][number, 1 : depth + 2].tolist() == choices.tolist()
        for name in ("position", "token_ids"):
            expected = before[name][number].copy()
            if runs and name == "position":
                expected += accepted + 1
            elif runs:
                expected[(position + 1 + np.arange(accepted + 1)) % RING] = choices[: accepted + 1]
            assert (after[name][number] == expected).all()
        for head in range(depth):
            expected = min(position + head + 1, position + accepted + 1)
            assert after["next_row"][head, number] == (expected if runs else before["next_row"][head, number])
    assert -1 in outcomes and 0 in outcomes and (depth in outcomes or depth == 7)
    assert (after["record"][:, depth + 2 :] == before["record"][:, depth + 2 :]).all()


def test_rows_are_copied_and_kept() -> None:
    rng = np.random.default_rng(0)
    x, copy, kept = (rng.standard_normal((rows, 1030), np.float32) for rows in (3, 3, 5))
    rows, targets = np.array([4, -1, 0], np.int32), (on_device(copy), on_device(kept))
    keep_rows(LAUNCH, on_device(x), targets[0], on_device(rows), targets[1])
    assert (on_host(targets[0]) == x).all()
    kept[[4, 0]] = x[[0, 2]]
    assert (on_host(targets[1]) == kept).all()
