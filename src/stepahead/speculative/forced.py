"""What a grammar says of drafts: which tokens it leaves no choice about, and which it will not have.

They are judged like any others, so a grammar that claims too much costs time, never text.
"""

import functools
import itertools
import logging

from stepahead.engine.params import Grammar
from stepahead.engine.request import Sequence

logger = logging.getLogger(__name__)


def forced_ids(sequence: Sequence, limit: int, vocab_size: int) -> tuple[int, ...]:
    """What must come next, as far as the sequence's grammar can tell, at most `limit` tokens; () without a grammar.

    An end token is the last. A grammar is foreign code: where it raises, or names an id that the model does not have,
    nothing more is forced.
    """
    grammar, ids = sequence.grammar, list[int]()
    try:
        while grammar is not None and not grammar.is_finished and len(ids) < limit:
            claimed = _claimed_ids(grammar, limit - len(ids), vocab_size)
            if not claimed:
                break
            for token_id in claimed:
                ids.append(token_id)
                if token_id in sequence.request.end_ids:
                    return tuple(ids)
                grammar = grammar.advance(token_id)
                if grammar.is_finished:
                    break
    except Exception:
        _warn_once(type(grammar).__qualname__)
    return tuple(ids)


def allowed_ids(sequence: Sequence, token_ids: tuple[int, ...]) -> tuple[int, ...]:
    """Those of a draft that the sequence's grammar might have: one that it forbids is not worth a row.

    A grammar may have a method num_allowed(token_ids) that tells how many of them may come, one after another.
    """
    count = getattr(sequence.grammar, "num_allowed", None)
    if count is None:
        return token_ids
    try:
        return token_ids[: max(int(count(token_ids)), 0)]
    except Exception:
        _warn_once(type(sequence.grammar).__qualname__)
        return token_ids


def _claimed_ids(grammar: Grammar, limit: int, vocab_size: int) -> tuple[int, ...]:
    claim = getattr(grammar, "forced_ids", None)
    ids = () if claim is None else tuple(int(token_id) for token_id in itertools.islice(claim(), limit))
    if any(not 0 <= token_id < vocab_size for token_id in ids):
        raise ValueError(f"of the forced ids {ids} one is not from 0 to {vocab_size - 1}")
    return ids


@functools.cache
def _warn_once(kind: str) -> None:
    """With the error that is being handled: the first of each kind of grammar tells what is wrong with all."""
    logger.warning("the grammar %s cannot say what may come next: drafts go without it", kind, exc_info=True)
