"""What the backend adds to its kernels: checks of what it is given, weights on their way to the device, memory."""

import numpy as np
import pytest

pytest.importorskip("triton")

import torch

from stepahead import BackendError, CapacityError
from stepahead.backends.base import BLOCK_SIZE, AttentionRows, Rope
from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.formats.fields import fields_of
from stepahead.backends.cuda.formats.format import FORMATS
from stepahead.backends.cuda.formats.pack import pack
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.staging import NUM_BUFFERS, Staging
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.gguf.quants import QuantType

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, on what is masked
RNG = np.random.default_rng(2)
BACKEND, REFERENCE = CudaBackend(), ReferenceBackend()
Q8_0, F32 = QuantType.Q8_0, QuantType.F32


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def weights(type: QuantType, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, type.nbytes(shape), np.uint8)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


# --- on the way to the device ---


@pytest.mark.parametrize("row_bytes", [34, 5000])  # longer than a buffer, too
@pytest.mark.parametrize("num_rows", [1, 16, 200])
def test_staged_pieces_are_the_rows(row_bytes: int, num_rows: int) -> None:
    rows = RNG.integers(0, 256, (num_rows, row_bytes), np.uint8)
    staging = Staging(Device.open(), threads=3, buffer_bytes=1024)
    found, ends = [], []
    for _ in range(2):  # buffers are used again
        for first, piece in staging.pieces(rows, unit=16):
            assert first == (ends[-1] if ends and ends[-1] < num_rows else 0)
            ends.append(first + len(piece))
            assert ends[-1] == num_rows or len(piece) % 16 == 0
            found.append(piece.cpu().numpy().copy())
    assert np.concatenate(found).tobytes() == 2 * rows.tobytes()
    staging.close()


def test_the_ring_has_a_bound() -> None:
    staging = Staging(Device.open(), threads=1, buffer_bytes=64)
    for _ in staging.pieces(np.zeros((100, 32), np.uint8), unit=1):
        assert len(staging._slots) <= NUM_BUFFERS
    staging.close()
    assert not staging._slots


@pytest.mark.parametrize("shape", [(3, 24, 64), (2, 32, 64), (40, 96)])  # experts that fill their tiles, and do not
def test_packed_weights_begin_a_tile_with_each_expert(shape: tuple[int, ...]) -> None:
    data = weights(Q8_0, *shape)
    matrix = BACKEND.load_matrix(data, Q8_0, shape)
    experts = data.reshape(-1, shape[-2], Q8_0.row_bytes(shape[-1]))
    expected = np.concatenate([pack(fields_of(expert, Q8_0), FORMATS[Q8_0]) for expert in experts])
    assert matrix.data.cpu().numpy().tobytes() == expected.tobytes()
    assert BACKEND.matrix_nbytes(Q8_0, shape) == matrix.nbytes == expected.nbytes


@pytest.mark.parametrize("type", [QuantType.F32, QuantType.F16, QuantType.BF16], ids=lambda type: type.name)
def test_plain_weights_stay_as_they_are(type: QuantType) -> None:
    data = weights(type, 2, 7, 33)
    matrix = BACKEND.load_matrix(data, type, (2, 7, 33))
    assert matrix.data.cpu().view(torch.uint8).numpy().tobytes() == data.tobytes()
    assert BACKEND.matrix_nbytes(type, (2, 7, 33)) == matrix.nbytes == data.nbytes


@pytest.mark.parametrize("type", [*FORMATS, QuantType.F32, QuantType.F16, QuantType.BF16], ids=lambda type: type.name)
def test_rows_are_written_as_if_they_had_been_loaded(type: QuantType) -> None:
    """Of a matrix that ends within a tile and a record; it stays where it is."""
    shape = 19, max(type.block_size, 32) + (0 if type.block_size == 256 else 256)
    data = weights(type, *shape).reshape(19, -1)
    rows = ints(17, 3, 16, 2, 18, 0, 1, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12)  # 17: two tiles of them
    others = weights(type, len(rows), shape[1]).reshape(len(rows), -1)
    matrix = BACKEND.load_matrix(data, type, shape)
    place = matrix.data.data_ptr()
    BACKEND.write_rows(matrix, rows, others)
    data[rows] = others
    expected = BACKEND.load_matrix(data, type, shape)
    assert matrix.data.cpu().view(torch.uint8).equal(expected.data.cpu().view(torch.uint8))
    assert matrix.data.data_ptr() == place


def test_ids_that_are_written_stay_where_they_are() -> None:
    """Also behind a recording, at whose end what it has bound is forgotten."""
    ids = ints(5, 6, -1)
    BACKEND.write_ids(ids)
    tensor = BACKEND.arrays(ids)
    ids[2] = 7
    assert tensor.tolist() == [5, 6, -1], "as they were when they were written"
    BACKEND.write_ids(ids)
    with BACKEND.arrays.sealed():
        assert BACKEND.arrays(ids) is tensor
    BACKEND.begin_step()
    assert BACKEND.arrays(ids) is tensor and tensor.tolist() == [5, 6, 7]


def test_loading_goes_on_after_it_was_finished() -> None:
    data = weights(F32, 4, 8)
    BACKEND.finish_loading()
    BACKEND.finish_loading()
    assert BACKEND.load_matrix(data, F32, (4, 8)).nbytes == data.nbytes
    assert not BACKEND._loader._staging._slots, "nobody will say again that it is finished"


@pytest.mark.parametrize(
    ("data", "type", "shape", "layout", "message"),
    [
        (np.zeros(10, np.uint8), F32, (2, 2), "plain", r"F32 weights of shape \(2, 2\) are 16 bytes, got 10"),
        (np.zeros(16, np.int8), F32, (2, 2), "plain", "C-contiguous uint8 arrays, not int8"),
        (np.zeros(16, np.uint8), F32, (4,), "plain", r"a matrix is \(out, in\) or"),
        (np.zeros(34, np.uint8), Q8_0, (1, 31), "plain", r"Q8_0 weights of shape \(1, 31\)"),
        (np.zeros(16, np.uint8), F32, (2, 2), "panels", "layout 'panels' is unknown"),
    ],
)
def test_what_is_no_matrix(data, type, shape, layout: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        BACKEND.load_matrix(data, type, shape, layout)


# --- what callers may get wrong ---

X = BACKEND.upload(normal(3, 64))
WEIGHT = BACKEND.load_vector(normal(32))
MATRIX = BACKEND.load_matrix(weights(F32, 5, 32), F32, (5, 32))
EXPERTS = BACKEND.load_matrix(weights(F32, 2, 5, 64), F32, (2, 5, 64))
KV = BACKEND.new_kv(2, 1, 32, "f32")
TABLE = BACKEND.rope_table(Rope(16, 1e4), ints(0, 1, 2))
ROWS = AttentionRows(ints(0, 1), ints(0, 0), ints(0, 0), ints(0).reshape(1, 1), ints(0, 1))
ROUTING = BACKEND.moe_route(BACKEND.upload(normal(2, 4)), None, 2, True, 1.0)
FAULTS = {
    "embed: a 1-dimensional int32 array": lambda b: b.embed(MATRIX, np.zeros(2)),
    "embed: ids: from -1 to 5, there are 5": lambda b: b.embed(MATRIX, ints(-1, 5)),
    "rms_norm: x (3, 64) and a weight of (1, 32)": lambda b: b.rms_norm(X, WEIGHT, 1e-5),
    "add: (3, 64) and (1, 32)": lambda b: b.add(X, WEIGHT),
    "swiglu: (3, 64) and (1, 32)": lambda b: b.swiglu(X, WEIGHT, 0.0),
    "concat: (3, 64) and (1, 32)": lambda b: b.concat(X, WEIGHT),
    "gather_rows: from 0 to 3, there are 3": lambda b: b.gather_rows(X, ints(0, 3)),
    "copy_rows: (1, 32) into (3, 64)": lambda b: b.copy_rows(X, 0, WEIGHT, 0, 1),
    "copy_rows: target: rows 2 to 4, there are 3": lambda b: b.copy_rows(X, 2, X, 0, 2),
    "copy_rows: source: rows -1 to 1, there are 3": lambda b: b.copy_rows(X, 0, X, -1, 2),
    "linear: x (3, 64) against a matrix of shape (5, 32)": lambda b: b.linear(X, MATRIX),
    "linear: x (3, 64) against a matrix of shape (2, 5, 64)": lambda b: b.linear(X, EXPERTS),
    "qk_norm_rope: x (3, 64) is not in heads of 48": lambda b: b.qk_norm_rope(X, None, 1e-5, TABLE, 48),
    "qk_norm_rope: x (1, 32), a table of 3 rows": lambda b: b.qk_norm_rope(WEIGHT, None, 1e-5, TABLE, 32),
    "kv_write: keys of (1, 32), the rows and heads are (2, 32)": lambda b: b.kv_write(KV, WEIGHT, WEIGHT, ROWS),
    "attention: q (3, 64), 2 positions": lambda b: b.attention(X, KV, ROWS, 1.0),
    "head_gate: (3, 64), (1, 32)": lambda b: b.head_gate(X, WEIGHT),
    "moe_route: 65 of 64 experts": lambda b: b.moe_route(X, None, 65, True, 1.0),
    "moe_ffn: x (3, 64), routing (2, 2)": lambda b: b.moe_ffn(X, ROUTING, EXPERTS, EXPERTS, EXPERTS, 0.0),
    "load_vector: a 1-dimensional float32 array": lambda b: b.load_vector(normal(1, 2)),
    "upload: a 2-dimensional float32 array": lambda b: b.upload(np.zeros((1, 2))),
    "write_rows: from 5 to 5, there are 5": lambda b: b.write_rows(MATRIX, ints(5), np.zeros((1, 128), np.uint8)),
    "write_rows: rows of a matrix (out, in), not of (2, 5, 64)": lambda b: b.write_rows(EXPERTS, ints(0), None),
    "F32 weights of shape (1, 32) are 128 bytes, got 4": lambda b: b.write_rows(MATRIX, ints(0), np.zeros(4, np.uint8)),
    "kv_type='q4' is unknown": lambda b: b.new_kv(1, 1, 32, "q4"),
    "copy_block: 2, there are 2 blocks": lambda b: b.copy_block(KV, 0, 2),
    "write_block: 3 bytes": lambda b: b.write_block(KV, 0, np.zeros(3, np.uint8)),
    "layout 'panels' is unknown": lambda b: b.repack(np.zeros(4, np.uint8), F32, (1, 1), "panels", None),
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_fault_is_named_before_anything_is_launched(message: str) -> None:
    with pytest.raises(BackendError) as caught:
        FAULTS[message](BACKEND)
    assert message in str(caught.value)


# --- memory ---


def test_rows_go_there_and_back() -> None:
    values = normal(4, 33)
    x = BACKEND.upload(values)
    values[:] = 0  # it was a copy
    assert BACKEND.download(x).std() > 0.5
    assert not BACKEND.download(BACKEND.zeros(3, 5)).any()
    assert BACKEND.download(BACKEND.load_vector(normal(7))).shape == (1, 7)


def test_rows_that_are_overwritten_are_rounded_again() -> None:
    """The halves that a product has made of rows are those of the rows before."""
    target, matrix = BACKEND.upload(normal(2, 32)), BACKEND.load_matrix(weights(Q8_0, 16, 32), Q8_0, (16, 32))
    BACKEND.linear(target, matrix)
    assert target.half is not None
    BACKEND.copy_rows(target, 0, BACKEND.upload(normal(2, 32)), 0, 2)
    assert target.half is None


def test_blocks_of_keys_and_values_go_there_and_back() -> None:
    kv = BACKEND.new_kv(3, 1, 32, "f16")
    data = RNG.integers(0, 255, kv.nbytes // kv.num_blocks, np.uint8)
    BACKEND.write_block(kv, 2, data)
    BACKEND.copy_block(kv, 2, 0)
    assert BACKEND.read_block(kv, 0, BLOCK_SIZE).tobytes() == data.tobytes()


def test_experts_are_counted_when_somebody_looks() -> None:
    logits = normal(5, 8)
    for backend in (BACKEND, REFERENCE):
        backend.begin_step()
        for layer in (logits, logits[:, ::-1].copy()):
            backend.moe_route(backend.upload(layer), None, 2, True, 1.0)
    counted = BACKEND.routed_experts()
    BACKEND.begin_step()
    assert BACKEND.routed_experts() == ()
    BACKEND.moe_route(BACKEND.upload(normal(1, 8)), None, 2, True, 1.0)
    BACKEND.routed_experts()
    assert tuple(counted) == REFERENCE.routed_experts()  # of the pass that it was asked of
    assert counted[-1] == max(counted) and len(counted) == 5


def test_words_are_those_of_the_reference() -> None:
    ids = np.arange(9, dtype=np.int64)
    assert BACKEND.token_words(7, 3, ids).tobytes() == REFERENCE.token_words(7, 3, ids).tobytes()


def test_a_full_device_says_what_takes_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr(torch, "empty", full)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * 10**8, 8 * 10**10))
    for method, arguments in (("new_kv", (1, 1, 32, "f16")), ("concat", (X, X))):
        with pytest.raises(CapacityError) as caught:
            getattr(BACKEND, method)(*arguments)
        message = str(caught.value)
        assert "0.5 of 80.0 GB are free" in message
        assert all(way in message for way in ("--context-length", "--kv-type q8_0", "--max-num-seqs", "--device cpu"))


def test_no_rows_are_rows() -> None:
    """Of a pass from which nothing is wanted but keys and values."""
    none, weight = BACKEND.gather_rows(X, ints()), BACKEND.load_vector(normal(64))
    matrix = BACKEND.load_matrix(weights(Q8_0, 16, 64), Q8_0, (16, 64))
    normed = BACKEND.rms_norm(none, weight, 1e-5)
    assert BACKEND.download(BACKEND.linear(normed, matrix)).shape == (0, 16)
    assert BACKEND.download(BACKEND.add(none, none)).shape == (0, 64)
