"""A cached prefix as records for a disk, and back: which bytes of which blocks and rows stand in which array.

A text is cut into pieces of PIECE_TOKENS, each a record with the blocks of the layers that attend to everything. A
snapshot is a record of its own: what lies behind the last whole piece, the windows of the other layers, hidden rows.
Nothing that a record says is believed before it was compared with this model's own sizes. Knows no files and no
requests.
"""

from collections.abc import Generator, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np

from stepahead.backends.base import BLOCK_SIZE, Bytes, Ints
from stepahead.engine.prefix_cache import PrefixCache
from stepahead.engine.request import SequenceKV
from stepahead.engine.runner import ModelRunner
from stepahead.engine.snapshot import HiddenRows, RowBlock, Snapshot, hidden_lowest
from stepahead.prefix_store.record import Header, Kind, Record, record_key

PIECE_TOKENS = 1024
PIECE_BLOCKS = PIECE_TOKENS // BLOCK_SIZE

COPIED_NBYTES = 64 << 20
"""At once, of what was read: about 10 ms, so that nobody who is just being answered has to wait for more."""

FORMAT_VERSION = 1
"""Of names, order and meaning of what a record holds."""

_FIRST_BLOCKS, _HIDDEN = "first_blocks", "hidden"


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """The tokens up to a snapshot, whose they are, and where in the store such texts begin."""

    token_ids: Ints
    salt: str
    root: bytes

    @property
    def num_pieces(self) -> int:
        return len(self.token_ids) // PIECE_TOKENS

    def piece(self, number: int) -> Ints:
        return self.token_ids[number * PIECE_TOKENS : (number + 1) * PIECE_TOKENS]

    def parents(self) -> list[bytes]:
        """The root, and the key of each piece."""
        keys = [self.root]
        for number in range(self.num_pieces):
            keys.append(record_key(keys[-1], "blocks", self.piece(number)))
        return keys


class PrefixRecords:
    """Those of one runner's model."""

    def __init__(self, runner: ModelRunner) -> None:
        specs = runner.model.kv_specs
        self._runner = runner
        self._full_groups = [group for group, spec in enumerate(specs) if not spec.is_draft and spec.window is None]
        self._sliding_groups = [
            group for group, spec in enumerate(specs) if not spec.is_draft and spec.window is not None
        ]

    @property
    def has_hidden(self) -> bool:
        """Whether snapshots are of use only with the rows that heads read."""
        return self._runner.model.draft is not None

    # --- writing ---
    def piece(self, text: Text, number: int, parent: bytes, key: bytes, kv: SequenceKV) -> Record:
        """The record of a piece of kv's text."""
        blocks = slice(number * PIECE_BLOCKS, (number + 1) * PIECE_BLOCKS)
        arrays = {
            name: self._read(layer, kv.tables[group][blocks], PIECE_TOKENS)
            for group in self._full_groups
            for name, layer in self._layers(group)
        }
        return _record(key, parent, "blocks", text.piece(number), {}, arrays)

    def snapshot(self, text: Text, parent: bytes, key: bytes, snapshot: Snapshot, kv: SequenceKV) -> Record:
        """The record of a snapshot at the end of kv's text."""
        position, start = snapshot.position, text.num_pieces * PIECE_BLOCKS
        assert position == len(text.token_ids) and (snapshot.hidden is not None or not self.has_hidden)
        arrays: dict[str, Bytes] = {}
        for group in (*self._full_groups, *self._sliding_groups):
            first, held = snapshot.first_blocks[group], list(snapshot.blocks[group])
            if group in self._full_groups:
                held, first = kv.tables[group][start : position // BLOCK_SIZE] + held, start
            for name, layer in self._layers(group):
                arrays[name] = self._read(layer, held, position - first * BLOCK_SIZE)
        numbers = {_FIRST_BLOCKS: tuple(snapshot.first_blocks[group] for group in self._sliding_groups)}
        if snapshot.hidden is not None and self.has_hidden:
            rows = [self._runner.backend.download(block.rows) for block in snapshot.hidden.blocks]
            arrays[_HIDDEN] = np.concatenate(rows).reshape(-1).view(np.uint8)
            numbers[_HIDDEN] = (snapshot.hidden.blocks[0].first,)
        return _record(key, parent, "snapshot", text.token_ids[text.num_pieces * PIECE_TOKENS :], numbers, arrays)

    # --- reading ---
    def serves(self, header: Header, position: int, num_tokens: int, needs_hidden: bool) -> bool:
        """True if a sequence of num_tokens finds everything in the snapshot of this header, at `position`."""
        first_blocks, first_hidden = header.numbers.get(_FIRST_BLOCKS), header.numbers.get(_HIDDEN)
        if first_blocks is None or len(first_blocks) != len(self._sliding_groups):
            return False
        kv_cache = self._runner.kv_cache
        lowest = [
            kv_cache.lowest(group, first) for group, first in zip(self._sliding_groups, first_blocks, strict=True)
        ]
        draft = self._runner.model.draft
        if needs_hidden and draft is not None:
            if first_hidden is None or len(first_hidden) != 1:
                return False
            hidden = hidden_lowest(draft, first_hidden[0])
            lowest.append(position + 1 if hidden is None else hidden)
        return min(first_blocks, default=0) >= 0 and max(lowest, default=0) <= num_tokens <= position

    def restore(
        self, text: Text, first_piece: int, records: Seq[Record], cache: PrefixCache
    ) -> Generator[None, None, bool]:
        """Publish a snapshot at the end of a text, of the records of its pieces from first_piece on and its own; the
        pieces before are in the cache. False: they are not any more, or a record is not as it should be, or no room.

        In turns of COPIED_NBYTES; whoever gives up between two of them closes the generator, which frees its blocks.
        """
        if not self._are_sound(text, first_piece, records):
            return False
        position = len(text.token_ids)
        kv_cache, kv = self._runner.kv_cache, self._runner.kv_cache.new()
        token_ids = text.token_ids.tolist()
        known = cache.known_blocks(token_ids, text.salt)
        if len(known) < first_piece * PIECE_BLOCKS:
            return False
        try:
            for number, group in enumerate(self._full_groups):
                kv_cache.adopt(kv, group, 0, [blocks[number] for blocks in known])
            firsts = self._first_blocks(records[-1], len(known))
            for group, first in firsts.items():
                while not kv_cache.claim(kv, group, first * BLOCK_SIZE, position):
                    if not cache.evict():
                        return False
            yield from self._write(text, first_piece, records, kv, firsts)
            kv.num_tokens = position
            hidden = self._hidden(records[-1])
            snapshot = cache.take(kv, position)
            snapshot.hidden = hidden
            cache.publish(snapshot, kv, token_ids, text.salt)
        finally:
            kv_cache.release(kv)
        return True

    def _first_blocks(self, snapshot: Record, num_known: int) -> dict[int, int]:
        """By group: which block of the text is the first to be read."""
        sliding = snapshot.header.numbers[_FIRST_BLOCKS]
        return dict.fromkeys(self._full_groups, num_known) | dict(zip(self._sliding_groups, sliding, strict=True))

    def _write(
        self, text: Text, first_piece: int, records: Seq[Record], kv: SequenceKV, firsts: dict[int, int]
    ) -> Iterator[None]:
        """The arrays into kv's blocks."""
        in_pieces, num_copied = text.num_pieces * PIECE_BLOCKS, 0
        for group, first in firsts.items():
            is_full = group in self._full_groups
            for index in range(first, len(kv.tables[group])):
                if is_full and index < in_pieces:
                    record, at = records[index // PIECE_BLOCKS - first_piece], index % PIECE_BLOCKS
                else:
                    record, at = records[-1], index - (in_pieces if is_full else first)
                for name, layer in self._layers(group):
                    size = self._block_nbytes(layer)
                    data = record.arrays[name][at * size : (at + 1) * size]
                    self._runner.backend.write_block(self._runner.kv[layer], kv.tables[group][index], data)
                    num_copied += size
                if num_copied >= COPIED_NBYTES:
                    num_copied = 0
                    yield

    def _hidden(self, snapshot: Record) -> HiddenRows | None:
        draft = self._runner.model.draft
        if draft is None:
            return None
        (first,) = snapshot.header.numbers[_HIDDEN]
        rows = snapshot.arrays[_HIDDEN].view(np.float32).reshape(-1, self._runner.model.hidden_size)
        lowest = hidden_lowest(draft, first)
        assert lowest is not None, "serves said so"
        starts = range(0, len(rows), BLOCK_SIZE)
        upload = self._runner.backend.upload
        return HiddenRows(tuple(RowBlock(first + at, upload(rows[at : at + BLOCK_SIZE])) for at in starts), lowest)

    # --- what is checked ---
    def _are_sound(self, text: Text, first_piece: int, records: Seq[Record]) -> bool:
        """True if these are the tokens, and every array is there in its size, and nothing else."""
        num_pieces = text.num_pieces - first_piece
        if len(records) != num_pieces + 1:
            return False
        ids = [text.piece(first_piece + number) for number in range(num_pieces)]
        for record, expected in zip(records, [*ids, text.token_ids[text.num_pieces * PIECE_TOKENS :]], strict=True):
            if not np.array_equal(record.header.token_ids, expected):
                return False
        piece = {name: PIECE_BLOCKS * size for name, size in self._sizes(self._full_groups)}
        if any(_sizes_of(record) != piece for record in records[:-1]):
            return False
        return _sizes_of(records[-1]) == self._snapshot_sizes(text, records[-1].header)

    def _snapshot_sizes(self, text: Text, header: Header) -> dict[str, int] | None:
        """By array; None for numbers that make no sense."""
        position, end = len(text.token_ids), -(-len(text.token_ids) // BLOCK_SIZE)
        firsts = header.numbers.get(_FIRST_BLOCKS, ())
        if len(firsts) != len(self._sliding_groups) or not all(0 <= first < end for first in firsts):
            return None
        sizes = {name: (end - text.num_pieces * PIECE_BLOCKS) * size for name, size in self._sizes(self._full_groups)}
        for group, first in zip(self._sliding_groups, firsts, strict=True):
            sizes |= {name: (end - first) * size for name, size in self._sizes([group])}
        if self._runner.model.draft is not None:
            hidden = header.numbers.get(_HIDDEN, ())
            if len(hidden) != 1 or hidden[0] % BLOCK_SIZE or not 0 <= hidden[0] < position:
                return None
            if hidden_lowest(self._runner.model.draft, hidden[0]) is None:
                return None
            sizes[_HIDDEN] = 4 * (position - hidden[0]) * self._runner.model.hidden_size
        return sizes

    # --- layers ---
    def _layers(self, group: int) -> list[tuple[str, int]]:
        return [(f"layer {layer}", layer) for layer in self._runner.model.kv_specs[group].layers]

    def _sizes(self, groups: Seq[int]) -> list[tuple[str, int]]:
        """Of a block, by array."""
        return [(name, self._block_nbytes(layer)) for group in groups for name, layer in self._layers(group)]

    def _block_nbytes(self, layer: int) -> int:
        kv = self._runner.kv[layer]
        return kv.nbytes // kv.num_blocks

    def _read(self, layer: int, blocks: Seq[int], num_positions: int) -> Bytes:
        """Blocks of a layer, one after the other; what lies behind num_positions is zeros, not whatever was there."""
        size = self._block_nbytes(layer)
        data = np.empty(len(blocks) * size, np.uint8)
        for index, block in enumerate(blocks):
            num_left = min(num_positions - index * BLOCK_SIZE, BLOCK_SIZE)
            data[index * size : (index + 1) * size] = self._runner.backend.read_block(
                self._runner.kv[layer], block, num_left
            )
        return data


def _record(
    key: bytes,
    parent: bytes,
    kind: Kind,
    token_ids: Ints,
    numbers: dict[str, tuple[int, ...]],
    arrays: dict[str, Bytes],
) -> Record:
    nbytes = sum(array.nbytes for array in arrays.values())
    return Record(Header(key, parent, kind, token_ids, numbers, nbytes), arrays)


def _sizes_of(record: Record) -> dict[str, int] | None:
    if any(array.dtype != np.uint8 or array.ndim != 1 for array in record.arrays.values()):
        return None
    return {name: array.nbytes for name, array in record.arrays.items()}
