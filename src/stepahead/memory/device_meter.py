"""The meter of a GPU: it asks torch's pool for what the GPU backend's ops ask for, and counts what they launch.

tests/memory compares the two. What the host sends with a pass, some bytes a row, is not counted.
"""

from collections.abc import Sequence

from stepahead.backends.base import AttentionRows, Backend, Floats, Ints, Rope, SharedExpert
from stepahead.backends.cuda.splits import attention_splits, is_parted, num_float_splits, num_splits
from stepahead.gguf import QuantType
from stepahead.memory.meter import MeterBase, MeterKV, MeterMatrix, MeterRouting, Pool
from stepahead.memory.torch_pool import TorchPool

BLOCK = 256  # inputs: rows as halves are padded to a multiple, and followed by an eighth of means
FEW_ROWS, MIN_ROUTED = 16, 32
TOGETHER = 4  # matrices of one launch
SAMPLE_TILE, SAMPLE_NBYTES = 2048, (16 + 8 * 32 + 24 + 4, 12)  # of a tile of logits, of a row


class Held:
    """Memory of the pool until Python drops it."""

    __slots__ = ("_block", "_pool")

    def __init__(self, pool: Pool, nbytes: int) -> None:
        self._pool = pool
        self._block = pool.acquire(nbytes)

    def __del__(self) -> None:
        self._pool.release(self._block)


class DeviceRows:
    """values: None for a sum that nobody has looked at yet; it keeps its terms. half: as products read them.
    is_open: a sum that may be a term of another, and is added up with it."""

    __slots__ = ("half", "is_open", "shape", "terms", "values")

    def __init__(
        self, shape: tuple[int, int], values: Held | None, terms: tuple[object, ...] = (), is_open: bool = False
    ) -> None:
        self.shape = shape
        self.values = values
        self.terms = terms
        self.is_open = is_open
        self.half: tuple[Held, Held] | None = None


class DeviceMeter(MeterBase):
    """Stands for the backend of a GPU. arena: a TorchPool."""

    can_write_turned = True
    can_share = True

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.num_launches = 0

    # --- memory ---
    def new_pool(self) -> None:
        self.arena = TorchPool()

    def load_vector(self, values: Floats) -> DeviceRows:
        return self._rows(1, values.size, launches=0)

    def upload(self, values: Floats) -> DeviceRows:
        num_rows, width = values.shape
        return self._rows(num_rows, width, launches=0)

    def zeros(self, num_rows: int, width: int) -> DeviceRows:
        return self._rows(num_rows, width, launches=0)

    # --- rows ---
    def embed(self, table: MeterMatrix, ids: Ints) -> DeviceRows:
        return self._rows(len(ids), table.shape[1])

    def rms_norm(self, x: DeviceRows, weight: DeviceRows, eps: float) -> DeviceRows:
        made = self._rows(*x.shape)
        if x.values is None:
            x.values = self.held(4 * x.shape[0] * x.shape[1])  # by the same launch
        made.half = self._new_half(x.shape)
        x.terms = ()
        return made

    def add(self, x: DeviceRows, y: DeviceRows) -> DeviceRows:
        is_waiting = y.is_open and y.values is None
        return DeviceRows(x.shape, None, (self.values(x), *(y.terms if is_waiting else (self.values(y),))))

    def concat(self, x: DeviceRows, y: DeviceRows) -> DeviceRows:
        return self._rows(x.shape[0], x.shape[1] + y.shape[1])

    def gather_rows(self, x: DeviceRows, rows: Ints) -> DeviceRows:
        self.values(x)
        return self._rows(len(rows), x.shape[1])

    # --- matrices ---
    def linear(self, x: DeviceRows, matrix: MeterMatrix) -> DeviceRows:
        return self.linear_many(x, (matrix,))[0]

    def linear_many(self, x: DeviceRows, matrices: Sequence[MeterMatrix]) -> tuple[DeviceRows, ...]:
        num_rows, made = x.shape[0], dict[int, DeviceRows]()
        self.values(x)
        groups: dict[object, list[int]] = {}
        for place, matrix in enumerate(matrices):
            num_out, num_in = matrix.shape
            if matrix.type == QuantType.F32:
                made[place] = self._rows(num_rows, num_out)
            elif matrix.type.block_size == 1:
                self._half(x)
                made[place] = self._rows_of_parts(x, num_out, num_float_splits(num_out, num_in))
            elif num_splits(num_out, -(-num_in // BLOCK)) > 1:
                made[place] = self._rows_of_parts(x, num_out, num_splits(num_out, -(-num_in // BLOCK)))
            else:
                groups.setdefault(matrix.type, []).append(place)
        for places in groups.values():
            for start in range(0, len(places), TOGETHER):
                together = places[start : start + TOGETHER]
                y = self.held(sum(_up(4 * num_rows * matrices[place].shape[0], BLOCK) for place in together))
                self._half(x)
                self.num_launches += 1
                made |= {place: DeviceRows((num_rows, matrices[place].shape[0]), y) for place in together}
        return tuple(made[place] for place in range(len(matrices)))

    # --- attention ---
    def rope_table(self, rope: Rope, positions: Ints) -> tuple[DeviceRows, DeviceRows]:
        half = rope.num_rotated // 2
        return self._rows(len(positions), half), self._rows(len(positions), half, launches=0)

    def qk_norm_rope(self, x: DeviceRows, weight: object, eps: float, table: object, head_dim: int) -> DeviceRows:
        return self._rows(*x.shape)

    def write_turned(
        self, kv: MeterKV, k: DeviceRows, v: DeviceRows, k_weight: object, eps: float, table: object,
        rows: AttentionRows, q: DeviceRows | None, q_weight: object,
    ) -> DeviceRows | None:  # fmt: skip
        if q is None:
            self.num_launches += 1
            return None
        return self._rows(*q.shape)

    def attention(
        self, q: DeviceRows, kv: MeterKV, rows: AttentionRows, scale: float, window: int | None = None
    ) -> DeviceRows:
        made = self._rows(*q.shape)
        (num_rows, width), splits = q.shape, attention_splits(rows.block_tables.shape[1])
        if not is_parted(num_rows, width, splits, window):
            return made
        kept = self.held(4 * num_rows * width * splits), self.held(8 * num_rows * width // kv.head_dim * splits)
        merged = self._rows(*q.shape)
        del kept
        return merged

    def head_gate(self, x: DeviceRows, gate: DeviceRows) -> DeviceRows:
        return self._with_half(x.shape)

    # --- feed-forward ---
    def swiglu(self, gate: DeviceRows, up: DeviceRows, limit: float) -> DeviceRows:
        return self._with_half(gate.shape)

    def moe_route(
        self, logits: DeviceRows, bias: DeviceRows | None, top_k: int, normalize: bool, scale: float
    ) -> "DeviceRouting":
        return DeviceRouting(self, logits.shape, top_k)

    def moe_ffn(
        self, x: DeviceRows, routing: "DeviceRouting", gate: MeterMatrix, up: MeterMatrix, down: MeterMatrix,
        limit: float, shared: SharedExpert | None = None,
    ) -> DeviceRows:  # fmt: skip
        rides = shared is not None and all(
            (one.type, one.shape) == (other.type, other.shape[1:])
            for one, other in ((shared.gate, gate), (shared.up, up), (shared.down, down))
        )
        outputs = self._routed(x, routing, gate, up, down, has_shared=rides)
        shape, terms = (x.shape[0], down.shape[1]), (outputs, routing)
        if shared is None or rides:
            return DeviceRows(shape, None, terms, is_open=True)
        g, u = self.linear_many(x, (shared.gate, shared.up))
        apart = self.values(self.linear(self.swiglu(g, u, shared.limit), shared.down))
        return DeviceRows(shape, None, (*terms, apart), is_open=True)

    def _routed(
        self, x: DeviceRows, routing: "DeviceRouting", gate: MeterMatrix, up: MeterMatrix, down: MeterMatrix,
        has_shared: bool,
    ) -> DeviceRows:  # fmt: skip
        num_rows, top_k = routing.shape
        results = num_rows * _power_of_two(top_k) + (num_rows if has_shared else 0)
        grouped = None
        if num_rows > FEW_ROWS:
            grouped = self.held(4 * (2 * num_rows * top_k + 64 * min(routing.num_experts, num_rows * top_k)))
            self.num_launches += 2
        hidden = self._rows(results, gate.shape[1])
        if gate.type.block_size > 1 or up.type.block_size > 1:
            self._half(x)
        outputs = self._rows(results, down.shape[1])
        if down.type.block_size > 1:
            self._half(hidden)
        del grouped
        return outputs

    # --- choice ---
    def chosen(self, logits: DeviceRows) -> Held:
        """What choosing tokens takes, and what of it is kept."""
        num_rows, num_columns = logits.shape
        of_tile, of_row = SAMPLE_NBYTES
        scratch = self.held(num_rows * of_tile * -(-num_columns // SAMPLE_TILE))
        kept = self.held(num_rows * of_row)
        self.num_launches += 3
        del scratch
        return kept

    def _rows(self, num_rows: int, width: int, launches: int = 1) -> DeviceRows:
        self.num_launches += launches
        return DeviceRows((num_rows, width), self.held(4 * num_rows * width))

    def _rows_of_parts(self, x: DeviceRows, num_out: int, splits: int) -> DeviceRows:
        """Of few rows, parts of K are left to be added."""
        num_rows = x.shape[0]
        if splits == 1 or num_rows > FEW_ROWS:
            made = self._rows(num_rows, num_out)
            self._half(x)
            return made
        parts = self._rows(num_rows * splits, num_out)
        self._half(x)
        return DeviceRows((num_rows, num_out), None, (parts, x.half), is_open=True)

    def values(self, x: DeviceRows) -> Held:
        if x.values is None:
            x.values = self.held(4 * x.shape[0] * x.shape[1])
            self.num_launches += 1
            x.terms = ()
        return x.values

    def _with_half(self, shape: tuple[int, int]) -> DeviceRows:
        made = self._rows(*shape)
        made.half = self._new_half(shape)
        return made

    def _half(self, x: DeviceRows) -> None:
        if x.half is None:
            x.half = self._new_half(x.shape)
            self.num_launches += 1

    def _new_half(self, shape: tuple[int, int]) -> tuple[Held, Held]:
        num_rows, width = shape
        return self.held(2 * num_rows * (_up(width, BLOCK) // 8 * 9)), self.held(4 * num_rows)

    def held(self, nbytes: int) -> Held:
        return Held(self.arena, nbytes)


class DeviceRouting(MeterRouting):
    """Its ids and weights, of rows that are padded."""

    __slots__ = ("_held",)

    def __init__(self, meter: DeviceMeter, scores: tuple[int, int], top_k: int) -> None:
        num_rows, num_experts = scores
        super().__init__((num_rows, top_k), num_experts)
        nbytes = 4 * max(MIN_ROUTED, _power_of_two(num_rows)) * _power_of_two(top_k)
        self._held = meter.held(nbytes), meter.held(nbytes)
        meter.num_launches += 1


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
