"""expert_overlap: distinct experts as a multiple of the first row's."""

import pytest

from stepahead.speculative.expert_overlap import expert_overlap


@pytest.mark.parametrize(("num_rows", "expected"), [(1, 1.0), (2, 1.5), (4, 2.25)])
def test_a_multiple_of_the_first_row(num_rows: int, expected: float) -> None:
    assert expert_overlap((16, 24, 30, 36), num_rows) == expected


def test_rows_that_were_not_counted_are_refused() -> None:
    with pytest.raises(AssertionError, match="5 rows, of which 4"):
        expert_overlap((16, 24, 30, 36), 5)


def test_a_dense_model_has_nothing_to_share() -> None:
    assert expert_overlap((), 4) == 1.0
