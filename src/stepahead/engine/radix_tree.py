"""Texts by their tokens, block by block: which snapshots lie on the way of a prompt, and which full blocks lead there.

Each node is one full block of BLOCK_SIZE tokens after those of its parent; a node without snapshots at or below it is
removed. Texts of different salts have nothing in common: each salt has a root of its own. Knows tokens and block ids;
not who holds them, how much memory they take, or when they were used.
"""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq

from stepahead.backends.base import BLOCK_SIZE
from stepahead.engine.snapshot import Snapshot

Serves = Callable[[Snapshot, int], bool]


class Node:
    """One full block of a text. blocks: its block ids, one for each group with full attention."""

    __slots__ = ("blocks", "children", "depth", "parent", "snapshots", "tokens")

    def __init__(self, parent: "Node | None", tokens: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        self.parent = parent
        self.tokens = tokens
        self.blocks = blocks
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: dict[tuple[int, ...], Node] = {}
        self.snapshots: list[Snapshot] = []  # whose last full block this is

    @property
    def num_tokens(self) -> int:
        return self.depth * BLOCK_SIZE


class RadixTree:
    """Nodes and snapshots by tokens."""

    def __init__(self) -> None:
        self._roots: dict[str, Node] = {}  # by salt
        self._node_of: dict[Snapshot, Node] = {}
        self._longest_reach = 0  # of a snapshot: how many tokens fewer than its own a sequence may have

    def find(self, token_ids: Seq[int], salt: str, limit: int, serves: Serves) -> tuple[Snapshot | None, int]:
        """The snapshot that saves the most of a prompt's first `limit` tokens, and how many; the newest of equals."""
        path = self._walk(token_ids, salt)
        taken: Node | None = None  # the node of the path below the one looked at
        for node in reversed(path):
            best, best_length = None, 0
            for snapshot, num_common in self._beside(node, taken, token_ids):
                length = min(num_common, snapshot.position, limit)
                if length >= max(best_length, 1) and serves(snapshot, length):
                    best, best_length = snapshot, length
            if best is not None:
                return best, best_length  # what branches off above has less in common
            taken = node
        return None, 0

    def add(self, snapshot: Snapshot, token_ids: Seq[int], salt: str) -> list[Node]:
        """Put a snapshot in its place; the nodes that were made for it: the caller gives them their blocks."""
        num_full = snapshot.position // BLOCK_SIZE
        node, made = self._roots.setdefault(salt, Node(None, (), ())), []
        for number in range(num_full):
            key = tuple(token_ids[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE])
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = Node(node, key, ())
                made.append(child)
            node = child
        snapshot.tail = tuple(token_ids[num_full * BLOCK_SIZE : snapshot.position])
        snapshot.salt = salt
        node.snapshots.append(snapshot)
        self._node_of[snapshot] = node
        self._longest_reach = max(self._longest_reach, snapshot.position - snapshot.lowest)
        return made

    def remove(self, snapshot: Snapshot) -> list[Node]:
        """Take a snapshot out; the nodes that are gone with it."""
        node = self._node_of.pop(snapshot)
        node.snapshots.remove(snapshot)
        gone: list[Node] = []
        while node.parent is not None and not node.children and not node.snapshots:
            del node.parent.children[node.tokens]
            gone.append(node)
            node = node.parent
        if node.parent is None and not node.children and not node.snapshots:
            del self._roots[snapshot.salt]  # clients choose salts, and could choose many
        return gone

    def same(self, position: int, token_ids: Seq[int], salt: str) -> Snapshot | None:
        """The snapshot of the same tokens, if there is one."""
        num_full = position // BLOCK_SIZE
        path = self._walk(token_ids[: num_full * BLOCK_SIZE], salt)
        if len(path) <= num_full:
            return None
        tail = tuple(token_ids[num_full * BLOCK_SIZE : position])
        return next((snapshot for snapshot in path[-1].snapshots if snapshot.tail == tail), None)

    def full_blocks(self, snapshot: Snapshot) -> list[tuple[int, ...]]:
        """Block ids of every full block of a snapshot's text, each for all groups with full attention."""
        blocks: list[tuple[int, ...]] = []
        node = self._node_of[snapshot]
        while node.parent is not None:
            blocks.append(node.blocks)
            node = node.parent
        blocks.reverse()
        return blocks

    def known_blocks(self, token_ids: Seq[int], salt: str) -> list[tuple[int, ...]]:
        """Block ids of the full blocks that a text begins with."""
        return [node.blocks for node in self._walk(token_ids, salt)[1:]]

    def _walk(self, token_ids: Seq[int], salt: str) -> list[Node]:
        """The root, and the nodes of all full blocks that are known; nothing of a salt without snapshots."""
        node = self._roots.get(salt)
        if node is None:
            return []
        path = [node]
        for start in range(0, len(token_ids) - BLOCK_SIZE + 1, BLOCK_SIZE):
            child = node.children.get(tuple(token_ids[start : start + BLOCK_SIZE]))
            if child is None:
                break
            node = child
            path.append(node)
        return path

    def _beside(self, node: Node, taken: Node | None, token_ids: Seq[int]) -> Iterator[tuple[Snapshot, int]]:
        """Snapshots at and below a node whose text has all of its tokens, but not those of `taken`; and how many
        tokens of the prompt each text begins with."""
        following = token_ids[node.num_tokens : node.num_tokens + BLOCK_SIZE]
        for snapshot in node.snapshots:
            yield snapshot, node.num_tokens + common_prefix_len(snapshot.tail, following)
        for child in node.children.values():
            if child is not taken:
                num_common = node.num_tokens + common_prefix_len(child.tokens, following)
                for snapshot in self._below(child, num_common):
                    yield snapshot, num_common

    def _below(self, node: Node, num_common: int) -> Iterator[Snapshot]:
        """Those that may serve num_common tokens."""
        waiting = [node]
        while waiting:
            node = waiting.pop()
            yield from node.snapshots
            if node.num_tokens + BLOCK_SIZE <= num_common + self._longest_reach:
                waiting += node.children.values()


def common_prefix_len(a: Seq[int], b: Seq[int]) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (x, y) in pairs if x != y), min(len(a), len(b)))
