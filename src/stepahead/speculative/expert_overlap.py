"""How much the rows of a pass share their experts."""

from collections.abc import Sequence


def expert_overlap(growth: Sequence[int], num_rows: int) -> float:
    """Experts that the first `num_rows` rows touched, as a multiple of the first row's; growth as in
    Backend.routed_experts. From 1, where every row chose the same, to num_rows, where no two share any; 1 for a dense
    model."""
    if not growth:
        return 1.0
    assert 1 <= num_rows <= len(growth), f"{num_rows} rows, of which {len(growth)} were counted"
    return growth[num_rows - 1] / growth[0]
