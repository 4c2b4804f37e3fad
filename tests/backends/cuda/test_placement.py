"""Which layers' experts stay on the host, for made-up models and GPUs. Needs neither a GPU nor its libraries."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from stepahead import CapacityError, ConfigError
from stepahead.backends.base import OwnMemory
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.backends.cuda.placement import ExpertLayer, Placement, place
from stepahead.config import EngineConfig
from stepahead.gguf import GGUFFile
from stepahead.gguf.quants import QuantType
from stepahead.memory import fitting
from stepahead.memory import planner as planning
from stepahead.memory.fitting import MARGIN, fit
from stepahead.memory.planner import Planner
from stepahead.memory.recorded_passes import RecordedPasses
from stepahead.memory.ways import gigabytes, needed

# Layers 1, 2, 4 and 5 have experts; packed they are a little larger than in the file.
EXPERTS = [ExpertLayer(1, 104, 100), ExpertLayer(2, 208, 200), ExpertLayer(4, 52, 50), ExpertLayer(5, 104, 100)]
NUM_LAYERS = 6


@pytest.mark.parametrize(
    ("cpu_experts", "gpu_layers", "lacking", "expected"),
    [
        (None, None, 0, ((), 0, 0)),
        (None, None, -1000, ((), 0, 0)),
        (None, None, 1, ((5,), 104, 100)),
        (None, None, 104, ((5,), 104, 100)),
        (None, None, 105, ((4, 5), 156, 150)),
        (None, None, 364, ((2, 4, 5), 364, 350)),
        (None, None, 468, ((1, 2, 4, 5), 468, 450)),
        (None, None, 469, ((1, 2, 4, 5), 468, 450)),  # not enough: whoever plans says so
        (0, None, 1000, ((), 0, 0)),
        (1, None, 0, ((5,), 104, 100)),
        (4, None, 0, ((1, 2, 4, 5), 468, 450)),
        (None, 0, 0, ((1, 2, 4, 5), 468, 450)),
        (None, 1, 0, ((1, 2, 4, 5), 468, 450)),
        (None, 2, 0, ((2, 4, 5), 364, 350)),
        (None, 3, 0, ((4, 5), 156, 150)),
        (None, 4, 0, ((4, 5), 156, 150)),
        (None, 6, 1000, ((), 0, 0)),
    ],
)
def test_so_many_last_layers(cpu_experts, gpu_layers, lacking, expected) -> None:
    assert place(EXPERTS, NUM_LAYERS, cpu_experts, gpu_layers, lacking) == Placement(*expected)


def test_more_layers_than_there_are() -> None:
    with pytest.raises(ConfigError, match="cpu_experts=5 is out of range: 4 layers of the model have experts"):
        place(EXPERTS, NUM_LAYERS, 5, None, 0)
    with pytest.raises(ConfigError, match="gpu_layers=7 is out of range: the model has 6 layers"):
        place(EXPERTS, NUM_LAYERS, None, 7, 0)
    with pytest.raises(ConfigError, match="cpu_experts=1 is out of range: 0 layers"):
        place([], NUM_LAYERS, 1, None, 0)
    assert place([], NUM_LAYERS, None, None, 1000) == Placement()


# --- with a model's plan ---
ASKED = EngineConfig(threads=1, context_length=1024, max_num_seqs=2, chunk_tokens=64, device="cuda:0", cache_gb=0)
NUM_EXPERTS = 64  # enough to be more than the margin
EXPERT_BYTES = 3 * NUM_EXPERTS * 64 * 128 * 4  # of a layer of support.random_step35.Shape
PACKED = EXPERT_BYTES + 4096


class SmallGpu(CpuBackend):
    """A GPU of which only the memory is one, and that packs experts into a little more than they were."""

    @property
    def own_memory(self) -> OwnMemory:
        return OwnMemory("a small GPU", None)

    def matrix_nbytes(self, type: QuantType, shape: tuple[int, ...]) -> int:
        return super().matrix_nbytes(type, shape) + (4096 if len(shape) == 3 and shape[1] == 128 else 0)


HANDED = 1 << 16
GAINED = PACKED - HANDED
CYCLES = 1 << 18


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes more than all of these models, and so do passes that it replays."""
    monkeypatch.setattr(planning, "DEVICE_PROGRAM_NBYTES", 0)
    monkeypatch.setattr(RecordedPasses, "nbytes", lambda self, *_: CYCLES * self.has_cycles)
    monkeypatch.setattr(RecordedPasses, "hand_over_nbytes", lambda *_: HANDED)


@pytest.fixture(scope="module")
def planner(model_path) -> Iterator[Planner]:
    """Four layers, of which the last three have experts."""
    with GGUFFile.open(model_path("f32", num_experts=NUM_EXPERTS)) as file:
        yield Planner(file, None, SmallGpu(threads=1))


def need(planner: Planner, config: EngineConfig = ASKED) -> int:
    return needed(planner)(config)


def test_the_plan_is_less_by_what_stays_on_the_host(planner: Planner) -> None:
    whole = planner.plan(replace(ASKED, cpu_experts=0))
    assert planner.plan(ASKED) == whole
    for count in (1, 2, 3):
        plan = planner.plan(replace(ASKED, cpu_experts=count))
        assert whole.of_name("weights") - plan.of_name("weights") == count * PACKED
        assert (whole.of_name("replayed passes"), plan.of_name("replayed passes")) == (CYCLES, count * HANDED)
        assert whole.nbytes - plan.nbytes == count * GAINED + CYCLES
        assert plan.host_experts == (1, 2, 3)[3 - count :]
        assert plan.host_nbytes == count * EXPERT_BYTES
        assert plan.file_nbytes == 0
        assert plan == planner.plan(replace(ASKED, gpu_layers=4 - count))
    assert plan.as_object()["host_experts"] == [1, 2, 3]
    assert plan.as_object()["host_bytes"] == 3 * EXPERT_BYTES


def test_what_fits_is_whole_on_the_gpu(planner: Planner) -> None:
    fitted = fit(planner, ASKED, need(planner))
    assert fitted.config.cpu_experts == 0
    assert fitted.plan.host_experts == fitted.plan.choices == ()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_as_few_layers_as_can_be_with_a_margin(planner: Planner, count: int) -> None:
    low = need(planner) - count * GAINED - CYCLES
    free = int(low / (1 - MARGIN)) + 1
    for room in (free, free + PACKED // 2):
        fitted = fit(planner, ASKED, room)
        assert fitted.config.cpu_experts == count
        assert fitted.plan.anonymous_nbytes == low <= (1 - MARGIN) * room
    (line,) = fitted.plan.choices
    layers = "layer 3" if count == 1 else f"layers {4 - count} to 3"
    assert line.startswith(f"cpu_experts={count}: the experts of {layers}, {gigabytes(count * EXPERT_BYTES)}, stay in")


def test_a_context_that_is_chosen_finds_the_experts_placed(planner: Planner) -> None:
    auto = replace(ASKED, context_length="auto")
    low = need(planner, replace(ASKED, context_length=4096)) - GAINED - CYCLES
    fitted = fit(planner, auto, int(low / (1 - MARGIN)) + 1)
    assert (fitted.config.cpu_experts, fitted.config.context_length) == (1, 4096)
    assert [line.split("=")[0] for line in fitted.plan.choices] == ["cpu_experts", "context_length"]


def test_where_nothing_is_refused_the_gpu_is_as_small(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    """--memory-gb inf"""
    for nbytes, count in ((need(planner), 0), (need(planner) - 1, 1), (1000, 3)):
        monkeypatch.setattr(planner, "place", OwnMemory("a small GPU", nbytes))
        assert fit(planner, ASKED, None).config.cpu_experts == count


def test_what_was_asked_for_is_not_changed(planner: Planner) -> None:
    plenty = 10 * need(planner)
    for asked in ({"cpu_experts": 2}, {"gpu_layers": 2}):
        fitted = fit(planner, replace(ASKED, **asked), plenty)
        assert (fitted.config.cpu_experts, fitted.config.gpu_layers) == (2, None)
        assert fitted.plan.host_experts == (2, 3)
        assert fitted.plan.choices == ()


def test_too_few_layers_are_refused_with_the_number_that_fits(planner: Planner) -> None:
    tight = replace(ASKED, kv_type="q8_0", max_num_seqs=1, context_length=64)
    free = need(planner, tight) - CYCLES - GAINED - 1
    with pytest.raises(CapacityError, match=r"--cpu-experts 2 saves [\d.]+ MB, enough.* or --device cpu$"):
        fit(planner, replace(tight, cpu_experts=1), free)
    assert fit(planner, replace(tight, cpu_experts=2), free).plan.host_experts == (2, 3)


def test_all_on_the_host_may_not_be_enough(planner: Planner) -> None:
    free = need(planner) - CYCLES - 3 * GAINED - 1
    with pytest.raises(CapacityError, match=r"--parallel 1 .*--kv-type q8_0 .*--context-length") as caught:
        fit(planner, ASKED, free)
    assert "--cpu-experts" not in str(caught.value)


def test_experts_that_the_host_cannot_keep_are_a_warning(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "free_memory", lambda: EXPERT_BYTES)
    assert fit(planner, replace(ASKED, cpu_experts=1), 10 * need(planner)).warnings == ()
    (line,) = fit(planner, replace(ASKED, cpu_experts=2), 10 * need(planner)).warnings
    assert f"of {gigabytes(2 * EXPERT_BYTES)} of experts {gigabytes(EXPERT_BYTES)} fit into the host's" in line


def test_a_processor_has_nothing_to_place(model_path) -> None:
    with GGUFFile.open(model_path("f32")) as file:
        plain = Planner(file, None, CpuBackend(threads=1))
        auto = replace(ASKED, device="auto", cpu_experts=2)  # and there was no GPU
        assert fit(plain, auto, None).plan.host_experts == ()
        with pytest.raises(CapacityError) as caught:
            fit(plain, auto, 1000)
        assert "cpu-experts" not in str(caught.value)
