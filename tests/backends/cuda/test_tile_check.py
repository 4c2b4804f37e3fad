"""Tiles of few rows instead of wide ones, where wide ones give other bits: how that is found, and what follows."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("triton")

import torch
from kernel_cases import DEVICE, LAUNCH, assert_same_bits, on_device, on_host, poisoned_memory
from test_linear import packed, random_weights
from test_moe_ffn import both, routing_of, some_ids

from backends.cuda.exact_dots import exact_dots
from stepahead.backends.cuda import tile_check
from stepahead.backends.cuda.configs import FEW_ROWS
from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.kernels import linear as linear_module
from stepahead.backends.cuda.kernels import linear_halves
from stepahead.backends.cuda.kernels.moe_combine import moe_combine
from stepahead.backends.cuda.kernels.moe_ffn import moe_ffn
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.rows import Rows
from stepahead.backends.cuda.tile_check import TileCheck
from stepahead.cli.loading import where
from stepahead.gguf.quants import QuantType, dequantize

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, on what is masked
F32, F16, BF16, Q8_0, Q4_K = (QuantType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_K"))
MANY = 40


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough to fill a tile of experts, of which the interpreter takes its time."""
    monkeypatch.setattr(tile_check, "NUM_ROWS", 65)
    monkeypatch.setattr(tile_check, "TOP_K", 1)


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (linear_module, tile_check):
        monkeypatch.setattr(module, "num_splits", lambda num_out, num_blocks: 2)
    for module in (linear_halves, tile_check):
        monkeypatch.setattr(module, "num_float_splits", lambda num_out, num_in: 2)


def quantised(type: QuantType) -> CudaMatrix:
    width = 512 if type == Q4_K else 256 + 32
    return packed(random_weights(type, 20, width), type, width)


def halves(type: QuantType) -> CudaMatrix:
    dtype = {F16: torch.float16, BF16: torch.bfloat16}[type]
    numbers = np.random.default_rng(1).standard_normal((20, 200), np.float32)
    return CudaMatrix(torch.from_numpy(numbers).to(dtype).to(DEVICE), type, (20, 200))


MATRICES = {
    "Q4_K": lambda: quantised(Q4_K),
    "Q8_0": lambda: quantised(Q8_0),
    "F16": lambda: halves(F16),
    "BF16": lambda: halves(BF16),
    "Q8_0 experts": lambda: both(Q8_0, 2, 16, 288)[0],
    "F32 experts": lambda: both(F32, 2, 16, 40)[0],
}


class Shaky(Launcher):
    """Adds a step to one number, the last row's, that kernels make in tiles of more than `rows` rows."""

    def __init__(self, rows: int, *kernels: str) -> None:
        super().__init__()
        self.rows = rows
        self.kernels = kernels or ("_linear", "_linear_halves", "_moe_gate_up", "_moe_down")

    def __call__(self, kernel, grid, *args, **options) -> None:
        super().__call__(kernel, grid, *args, **options)
        result = {"_linear": 6, "_linear_halves": 3, "_moe_gate_up": -3, "_moe_down": -1}.get(kernel.fn.__name__, 0)
        if kernel.fn.__name__ in self.kernels and options.get("R", options.get("ROWS")) > self.rows:
            last = args[result].view(-1)[-1:] if "R" not in options else self._last(kernel.fn.__name__, args, result)
            last.view(torch.int32).add_(1)

    def _last(self, name: str, args: tuple, result: int) -> torch.Tensor:
        """What is behind the results of `_linear` is nobody's."""
        size = args[7] * args[8] if name == "_linear" else args[4] * args[5]
        return args[result].view(-1)[size - 1 : size]


def checked(launch: Launcher, matrix: CudaMatrix) -> tuple[CudaMatrix, TileCheck]:
    check = TileCheck(Device.open(), is_tried=True)
    check._launch = launch
    with poisoned_memory(), exact_dots(step=16):
        return check.checked(matrix), check


@pytest.mark.parametrize("name", MATRICES)
def test_rows_that_are_alike_have_wide_tiles(name: str, few_rows) -> None:
    matrix, check = checked(Launcher(), MATRICES[name]())
    assert matrix.has_wide_tiles
    assert check.describe() == ""


@pytest.mark.parametrize("name", MATRICES)
def test_one_step_of_one_number_is_found(name: str, few_rows, caplog: pytest.LogCaptureFixture) -> None:
    matrix, check = checked(Shaky(FEW_ROWS), MATRICES[name]())
    assert not matrix.has_wide_tiles
    assert check.describe() == f"tiles of 16 rows for {name}"
    assert "prompts take longer, texts are the same" in caplog.text


@pytest.mark.parametrize("name", ["Q4_K", "F16"])
def test_products_in_parts_are_a_kind_of_their_own(name: str, few_rows, in_parts) -> None:
    matrix, check = checked(Shaky(FEW_ROWS), MATRICES[name]())
    assert not matrix.has_wide_tiles
    assert check.describe() == f"tiles of 16 rows for {name} in 2 parts"


def test_gate_and_up_are_tried_and_down_is(few_rows) -> None:
    for kernel in ("_moe_gate_up", "_moe_down"):
        assert not checked(Shaky(FEW_ROWS, kernel), MATRICES["F32 experts"]())[0].has_wide_tiles


def test_what_no_tile_helps_is_said(few_rows, caplog: pytest.LogCaptureFixture) -> None:
    class Drifting(Launcher):
        def __call__(self, kernel, grid, *args, **options) -> None:
            super().__call__(kernel, grid, *args, **options)
            if kernel.fn.__name__ == "_linear":
                args[6].view(-1)[0] += self.num_launches

    matrix, check = checked(Drifting(), MATRICES["Q8_0"]())
    assert not matrix.has_wide_tiles
    assert check.describe() == "inexact: Q8_0"
    assert "may change texts" in caplog.text


def test_a_kind_is_tried_once(few_rows, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(tile_check, "rows_are_alike", lambda launch, matrix, x: tried.append(matrix.shape) or False)
    check = TileCheck(Device.open(), is_tried=True)
    first, other = quantised(Q8_0), CudaMatrix(torch.zeros(1, 1), F32, (1, 1))
    assert not check.checked(first).has_wide_tiles and not check.checked(first).has_wide_tiles
    assert len(tried) == 2  # in either tile
    assert check.checked(other) is other  # multiplied without matrix units


@pytest.mark.skipif(DEVICE.type != "cpu", reason="a GPU is tried")
def test_the_interpreter_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_check, "rows_are_alike", lambda *_: pytest.fail("tried"))
    matrix = quantised(Q8_0)
    assert TileCheck(Device.open()).checked(matrix) is matrix


class Widths(Launcher):
    """Keeps the tiles of what is launched."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, int] = {}

    def __call__(self, kernel, grid, *args, **options) -> None:
        super().__call__(kernel, grid, *args, **options)
        if {"R", "ROWS"} & options.keys():
            self.found[kernel.fn.__name__] = options.get("R", options.get("ROWS"))


@pytest.mark.parametrize("name", ["Q4_K", "F16"])
@pytest.mark.parametrize("parts", [1, 2])
def test_narrow_products_of_many_rows(name: str, parts: int, request: pytest.FixtureRequest) -> None:
    if parts > 1:
        request.getfixturevalue("in_parts")
    matrix, launch = MATRICES[name](), Widths()
    narrow = CudaMatrix(matrix.data, matrix.type, matrix.shape, has_wide_tiles=False)
    x = np.random.default_rng(2).standard_normal((MANY, matrix.shape[1])).astype(np.float32)
    with poisoned_memory(), exact_dots(step=16):
        wide = on_host(linear_module.linear(LAUNCH, Rows(on_device(x)), matrix))
        found = on_host(linear_module.linear(launch, Rows(on_device(x)), narrow))
        few = on_host(linear_module.linear(launch, Rows(on_device(x[:2])), narrow))
    assert set(launch.found.values()) == {FEW_ROWS}
    assert_same_bits(found, wide)
    assert_same_bits(found[:2], few)
    if name == "Q4_K":
        exact = x.astype(np.float64) @ dequantize(random_weights(Q4_K, 20, 512), Q4_K).astype(np.float64).T
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-3 * np.abs(exact).max())


@pytest.mark.parametrize("place", range(3))
def test_narrow_experts_of_many_rows(place: int) -> None:
    """One matrix of the three is enough."""
    shapes = ((32, 96), (32, 96), (96, 32))
    matrices = [both(Q8_0, 2, *shape, seed=seed)[0] for seed, shape in enumerate(shapes)]
    narrow = list(matrices)
    narrow[place] = CudaMatrix(narrow[place].data, Q8_0, narrow[place].shape, has_wide_tiles=False)
    rng, launch = np.random.default_rng(3), Widths()
    x, weights = rng.standard_normal((MANY, 96)).astype(np.float32), rng.random((MANY, 1), np.float32)
    with poisoned_memory(), exact_dots(step=16):
        routing = routing_of(some_ids(MANY, 2, 1), weights)
        wide = on_host(moe_combine(LAUNCH, moe_ffn(LAUNCH, Rows(on_device(x)), routing, *matrices, 0.0)))
        found = on_host(moe_combine(launch, moe_ffn(launch, Rows(on_device(x)), routing, *narrow, 0.0)))
    assert launch.found["_moe_down"] == launch.found["_moe_gate_up"] == FEW_ROWS
    assert_same_bits(found, wide)


def test_a_backend_says_what_it_found(few_rows, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = CudaBackend()
    before = backend.describe()
    backend._loader.tiles = TileCheck(backend.device, is_tried=True)
    answers = iter([False, True])  # in wide tiles, in those of few rows
    monkeypatch.setattr(tile_check, "rows_are_alike", lambda *_: next(answers))
    launches = backend.launch.num_launches
    matrix = backend.load_matrix(random_weights(Q8_0, 20, 64).reshape(-1), Q8_0, (20, 64))
    assert not matrix.has_wide_tiles
    assert backend.launch.num_launches == launches
    after = backend.describe()
    assert before["tiles"] == "" and after["tiles"] == "tiles of 16 rows for Q8_0"
    assert after["numerics"] == f"{before['numerics']}, tiles of 16 rows for Q8_0"
    llm = SimpleNamespace(backend=backend)
    assert where(llm) == f"{after['device']} ({after['isa']}, tiles of 16 rows for Q8_0)"
