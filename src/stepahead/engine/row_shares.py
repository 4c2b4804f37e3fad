"""How the rows of a step are shared out: those who decode come first, then prompts, as far as time allows.

Half of what is left for prompts belongs to the oldest, which bounds how long any of them waits; the other half goes to
the prompts with the least left to run, so that a short one overtakes the long ones.
"""

from collections.abc import Sequence as Seq

from stepahead.engine.chunk_budget import ChunkBudget
from stepahead.engine.request import Sequence


def rows_of_step(sequences: Seq[Sequence], chunk_tokens: int, slack: int, budget: ChunkBudget) -> list[int]:
    """Rows of each sequence, oldest first; a prompt may get none, while another gets some.

    chunk_tokens: rows of the step; slack: what a rollback can undo.
    """
    prompts = [index for index, sequence in enumerate(sequences) if not sequence.is_decoding]
    num_decoding = len(sequences) - len(prompts)
    counts = [0] * len(sequences)
    left = chunk_tokens - num_decoding - bool(prompts)  # a row each before anybody's drafts
    assert left >= 0, "every sequence that decodes runs at least one row a step"
    for index, sequence in enumerate(sequences):
        if sequence.is_decoding:
            extra = min(_draft_len(sequence, slack), left)
            counts[index] = 1 + extra
            left -= extra
    if prompts:
        units = budget.units(sum(counts)) if num_decoding else float("inf")
        parts = [sequences[index] for index in prompts]
        wanted = [len(sequence.token_ids) - sequence.num_computed_tokens for sequence in parts]
        weights = [budget.weight(sequence.num_computed_tokens) for sequence in parts]
        for index, count in zip(prompts, share_prompts(wanted, weights, left + 1, units), strict=True):
            counts[index] = count
    return counts


def share_prompts(wanted: Seq[int], weights: Seq[float], num_rows: int, units: float) -> list[int]:
    """Rows of each prompt, oldest first: num_rows at most, their weights together `units` at most; but at least one."""
    counts = [0] * len(wanted)

    def serve(index: int, most_rows: int, most_units: float) -> None:
        nonlocal num_rows, units
        count = min(wanted[index] - counts[index], most_rows)
        if count * weights[index] > most_units:
            count = int(most_units / weights[index])
        counts[index] += count
        num_rows -= count
        units -= count * weights[index]

    serve(0, (num_rows + 1) // 2, units / 2)
    for index in sorted(range(len(wanted)), key=lambda index: wanted[index] - counts[index]):
        serve(index, num_rows, units)
    if not any(counts):
        counts[0] = 1
    return counts


def _draft_len(sequence: Sequence, slack: int) -> int:
    """Draft tokens worth a row: never past the tokens still wanted, nor past what a rollback can undo."""
    return min(len(sequence.draft.token_ids), sequence.num_remaining_tokens - 1, slack - 1)
