"""A record: one file's worth of a text, and the name it has by all tokens up to its end.

Records form chains: each continues its parent's text. Keys are made of tokens and of what computed them, never of
where or when; a key that is found is not yet proof, its tokens are compared too.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from stepahead.gguf.block_quants import Bytes

Ints = npt.NDArray[np.int32]
Kind = Literal["blocks", "snapshot"]
"""blocks: full blocks of a text, that any longer text shares. snapshot: a place where a sequence can go on."""

KEY_BYTES = 16


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What is known of a record without its arrays."""

    key: bytes  # (KEY_BYTES,)
    parent: bytes  # of the record whose text this one continues, or a root key
    kind: Kind
    token_ids: Ints  # (n,) int32: of this record alone
    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # small facts, by name
    nbytes: int = 0  # of all arrays


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A header and its arrays."""

    header: Header
    arrays: Mapping[str, Bytes]  # uint8, one-dimensional, by name


def root_key(identity: str, salt: str) -> bytes:
    """Where all texts of one model, computed in one way, for one owner begin."""
    return _digest(b"root", identity.encode(), salt.encode("utf-8", "surrogatepass"))


def record_key(parent: bytes, kind: Kind, token_ids: Ints) -> bytes:
    """The key of the record with these tokens behind its parent's."""
    return _digest(kind.encode(), parent, np.ascontiguousarray(token_ids, np.int32).tobytes())


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=KEY_BYTES, person=b"stepahead-prefix")
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
