"""From what each draft token is worth at each place of a text to what an engine's rounds accept.

A round begins behind a committed token and drafts up to `depth` more; the next one begins behind the token that the
trunk put after the last accepted one. Knows neither models nor logits.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Of one text: (depth,) draft tokens whose predecessors were accepted, and those of them that were."""

    reached: Shares
    accepted: Shares


def reach(chances: Shares) -> Shares:
    """(rounds, depth): how likely a round begins at each place and has its draft token j judged.

    chances[i, j]: that draft token j of a round at place i is accepted once those before it were; NaN where there is
    no such token, as the text ends. Draft token j of place i is the text's token i + j + 1.
    """
    num_places, depth = chances.shape
    begins = np.zeros(num_places + depth + 2)
    begins[0] = 1.0
    reached = np.zeros_like(chances)
    for place in range(num_places):
        left = begins[place]
        for index in range(depth):
            chance = chances[place, index]
            if np.isnan(chance):
                break
            reached[place, index] = left
            begins[place + index + 1] += left * (1.0 - chance)
            left *= chance
        else:
            index = depth
        begins[place + index + 1] += left
    return reached


def count(reached: Shares, chances: Shares) -> Counts:
    """What is accepted of what is reached."""
    return Counts(reached.sum(axis=0), (reached * np.nan_to_num(chances)).sum(axis=0))


def shares(texts: Seq[Counts]) -> Shares:
    """What was accepted of what was reached, by position."""
    reached = np.sum([text.reached for text in texts], axis=0)
    accepted = np.sum([text.accepted for text in texts], axis=0)
    found: Shares = np.divide(accepted, reached, out=np.zeros(len(reached)), where=reached > 0)
    return found


def cumulative(texts: Seq[Counts]) -> Shares:
    """Of all rounds, the share whose draft is right up to each position, where `shares` are conditional ones."""
    right: Shares = np.multiply.accumulate(shares(texts))
    return right


def tokens_per_step(texts: Seq[Counts]) -> Shares:
    """(1,): one from the trunk and those accepted, if texts had no end that cuts a draft short."""
    steps: Shares = 1.0 + cumulative(texts).sum(keepdims=True)
    return steps


def figures(values: Shares) -> str:
    """For a table."""
    return " ".join(f"{value:.3f}".removeprefix("0") for value in values)


def standard_error(figure: Callable[[Seq[Counts]], Shares], texts: Seq[Counts]) -> Shares:
    """Of a figure over texts, by the jackknife: texts are independent, the tokens of one are not."""
    number = len(texts)
    if number < 2:
        return np.full_like(figure(texts), np.nan)
    without = np.array([figure([*texts[:left], *texts[left + 1 :]]) for left in range(number)])
    spread: Shares = ((without - without.mean(axis=0)) ** 2).sum(axis=0)
    errors: Shares = np.sqrt((number - 1) / number * spread)
    return errors
