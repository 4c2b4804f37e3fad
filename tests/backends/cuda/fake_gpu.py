"""A GPU that is not there, as far as launching goes: kernels are bound and compiled as on one of compute capability
9.0, and not run. Its tensors are torch's "meta": shapes and addresses, no numbers. Run as a program, it loads a model,
writes texts with it, and prints as JSON what a GPU would not have allowed.

What it watches is a capture: within one nothing may be compiled, loaded, waited for, copied, pinned, computed by torch
or given to the collector; and that threads launch where the model is, in grids that a GPU takes.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton.compiler
import triton.compiler.compiler
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

MAIN, SIDE = 0, 1  # streams
ALLOWED = {"empty", "empty_like", "view", "slice", "select", "detach", "alias", "as_strided"}  # in a capture
MAX_GRID = (2**31 - 1, 65535, 65535)


class Watch:
    """What has happened so far."""

    def __init__(self) -> None:
        self.faults: set[str] = set()
        self.num_graphs = self.num_launches = 0
        self.is_capturing = False
        self.here = threading.local()  # stream; is_current: this thread is on the device

    @property
    def stream(self) -> int:
        return getattr(self.here, "stream", MAIN)

    def demand(self, is_right: bool, fault: str) -> None:
        if not is_right:
            self.faults.add(fault)

    def none_captured(self, what: str) -> None:
        self.demand(not self.is_capturing, f"{what} in a capture")


WATCH = Watch()


# --- Triton ---
class Launcher:
    def __init__(self, source: Any, metadata: object) -> None:
        self.name = source.fn.__name__

    def __call__(self, x: int, y: int, z: int, stream: int, *_: object) -> None:
        WATCH.num_launches += 1
        fits = all(0 < size <= most for size, most in zip((x, y, z), MAX_GRID, strict=True))
        WATCH.demand(fits, f"{self.name}: a grid of {x, y, z}")
        WATCH.demand(stream == (SIDE if WATCH.is_capturing else WATCH.stream), f"{self.name}: on another stream")
        WATCH.demand(getattr(WATCH.here, "is_current", False), f"{self.name}: launched by a thread without the device")


class Utils:
    def load_binary(self, name: str, *_: object) -> tuple[int, int, int, int, int]:
        WATCH.none_captured(f"{name}: loaded")
        return 1, 1, 64, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448}


class Driver:
    utils, launcher_cls = Utils(), Launcher

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return WATCH.stream

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def watch_compiler() -> None:
    compile = triton.compiler.compiler.compile

    def compiling(source: Any, *args: Any, **options: Any) -> Any:
        WATCH.none_captured(f"{source.fn.__name__}: compiled")
        return compile(source, *args, **options)

    triton.compiler.compile = triton.compiler.compiler.compile = compiling
    driver.set_active(Driver())


# --- torch ---
class Event:
    def synchronize(self) -> None:
        WATCH.none_captured("waiting for an event")


class Stream:
    def __init__(self, number: int) -> None:
        self.number = number

    def record_event(self) -> Event:
        WATCH.none_captured("an event")
        return Event()

    def wait_stream(self, other: object) -> None:
        WATCH.none_captured("waiting for a stream")

    wait_event = wait_stream

    def synchronize(self) -> None:
        WATCH.none_captured("synchronize")


class Graph:
    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        WATCH.demand(WATCH.stream == SIDE and not WATCH.is_capturing, "a capture of the stream that computes")
        WATCH.is_capturing, self.num_before = True, WATCH.num_launches

    def capture_end(self) -> None:
        WATCH.is_capturing = False
        WATCH.num_graphs += 1
        WATCH.demand(WATCH.num_launches > self.num_before, "an empty graph")

    def replay(self) -> None:
        WATCH.none_captured("a replay")


@contextlib.contextmanager
def on_stream(stream: Stream) -> Iterator[None]:
    before, WATCH.here.stream = WATCH.stream, stream.number
    yield
    WATCH.here.stream = before


class TorchOps(TorchDispatchMode):
    """Of this thread."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        WATCH.demand(not WATCH.is_capturing or name in ALLOWED, f"torch's {name} in a capture")
        if name == "copy_" and args[0].device.type == "cpu" and args[1].device.type == "meta":
            return args[0].zero_()  # what comes to the host is zeros
        if name == "equal":
            return True
        return func(*args, **(kwargs or {}))


def watch_torch() -> None:
    def memory(make: Any) -> Any:
        def made(*args: Any, pin_memory: bool = False, **options: Any) -> Any:
            WATCH.demand(not (pin_memory and WATCH.is_capturing), "pinned memory in a capture")
            return make(*args, **options)

        return made

    torch.empty, torch.zeros = memory(torch.empty), memory(torch.zeros)
    for name, fake in {
        "Stream": lambda device: Stream(SIDE),
        "current_stream": lambda device=None: Stream(WATCH.stream),
        "stream": on_stream,
        "synchronize": lambda device=None: WATCH.none_captured("synchronize"),
        "empty_cache": lambda: WATCH.none_captured("empty_cache"),
        "graph_pool_handle": object,
        "CUDAGraph": Graph,
        "is_current_stream_capturing": lambda: WATCH.is_capturing,
        "mem_get_info": lambda device=None: (70 * 10**9, 80 * 10**9),
    }.items():
        setattr(torch.cuda, name, fake)


def watch_room() -> None:
    """Before its kernels are imported."""
    from stepahead.backends.cuda import configs
    from stepahead.backends.cuda.device import Device

    configs.arch_of = lambda device: 90
    Device.open = classmethod(lambda cls, index=0: cls(torch.device("meta"), "none", "sm_90", 90, 132, 80 * 10**9))
    Device.make_current = lambda self: setattr(WATCH.here, "is_current", True)


def main(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    watch_compiler()
    watch_torch()
    watch_room()
    from stepahead import LLM, SamplingParams
    from stepahead.backends.cuda.host_experts import HostExperts

    # Routing is zeros, too, which the CPU's op would refuse.
    HostExperts._compute = lambda self, matrices, limit, top_k, x, ids, shares: x * 0
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    with TorchOps(), LLM(path, device="cuda", context_length=256, threads=1, **settings) as llm:
        for prompt in ([*range(30)], [*range(70)]):
            llm.generate(prompt, params)
        llm.generate([[1, 2, 3], [*range(9)]], params)
        other = threading.Thread(target=lambda: llm.generate([*range(5)], params))
        other.start()
        other.join()
    return {"faults": sorted(WATCH.faults), "num_graphs": WATCH.num_graphs}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), json.loads(sys.argv[2]))))
