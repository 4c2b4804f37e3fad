"""The command: python -m benchmarks.peers, from the root of a checkout. Parses, checks, measures, reports."""

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import stepahead
from benchmarks.peers import forced, llama
from benchmarks.peers.floor import Weights
from benchmarks.peers.measure import Results, measure_loads, measure_rounds
from benchmarks.peers.models import PRESETS, Shape, make_model, nbytes
from benchmarks.peers.plan import Plan, make_tasks
from benchmarks.peers.plot import draw
from benchmarks.peers.report import as_object, as_text, doubtful_peers
from benchmarks.peers.worker import ROOT, Setting, Worker, WorkerError
from stepahead.backends.cpu.threads import default_threads
from stepahead.cli.bench_cases import parse_rates
from stepahead.demo import demo_path
from stepahead.diagnosis.bandwidth import READ_BYTES, ReadBandwidth
from stepahead.errors import ConfigError, StepaheadError
from stepahead.gguf import GGUFFile
from stepahead.machine import cpu_name, system_name

DEMO = "demo"
OURS = "stepahead"
REPACK = {"on": (True,), "off": (False,), "both": (True, False)}
SPARE_MEMORY = 1 << 30
READ_CHUNK = 16 << 20
DECODED, FORCED_DECODED = 32, 200  # tokens; at a forced acceptance a sample's share needs more of them

DESCRIPTION = """\
Measure stepahead beside llama.cpp: the same file, the same threads, in turns.

Plain decoding, prompts, verify passes of 1 to 16 rows behind a cached prefix, whole draft cycles at depth 1 to 3 with
all or none of the draft tokens kept, loading, memory. Each side runs in a process of its own, which is stopped while
another is asked. llama.cpp is measured with and without its repacked weights; the better setting counts, figure by
figure. Figures are medians over rounds, ratios are taken within a round. Beside each stands the floor: the bytes that
must be read, over the bandwidth of the same threads in the same minutes."""

EXAMPLES = """\
examples:
  python -m benchmarks.peers                                   # the small model
  python -m benchmarks.peers --model mid --rounds 7 --json mid.json --plot mid.svg
  python -m benchmarks.peers --model mid --experts 48 --folder /data/models
  python -m benchmarks.peers --model mid288 --repack off       # too large for a second, repacked copy
  python -m benchmarks.peers --model demo --only 'decode' 'cycle-*'
  python -m benchmarks.peers --model model.gguf --alone        # without llama.cpp: ours and the floor
  python -m benchmarks.peers --model mid --synth-rates .8,.6,.45      # whole decodes at this acceptance

models: small (52 MB), mid (6.8 GB: Step's layer shapes, 16 layers of 24 experts), mid288 (10.5 GB: 4 layers of 288
experts), demo (the embedded one), or the path of a Step-3.5 GGUF file. They are written once and kept in --folder.
"""


def main(arguments: list[str] | None = None) -> int:
    try:
        _run(_parse(arguments))
    except (StepaheadError, WorkerError, OSError) as error:
        sys.stderr.write(f"peers: {error}\n")
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="small", help="small, mid, mid288, demo or a path; default: small")
    parser.add_argument("--experts", type=int, help="experts a layer of a made model, instead of its own number")
    parser.add_argument("--threads", type=int, default=default_threads(), help="of both sides; default: the cores")
    parser.add_argument("--rounds", type=int, default=5, help="that count; one more warms up; default: 5")
    parser.add_argument("--prefix", type=int, default=256, help="tokens before what is timed; default: 256")
    parser.add_argument("--tokens", type=int, help="of a decode; default: 32; with --synth-rates 200")
    parser.add_argument("--prompts", type=int, nargs="*", default=[512, 4096], help="lengths; default: 512 4096")
    parser.add_argument("--seconds", type=float, default=0.5, help="a sample of passes or cycles; default: 0.5")
    parser.add_argument("--only", nargs="+", default=["*"], help="keys: load decode prompt-N verify-N cycle-N-kept-N")
    parser.add_argument(
        "--synth-rates",
        metavar="RATES",
        help="decode with acceptance forced to such as .8,.6,.45, beside llama.cpp's server, instead of all else",
    )
    parser.add_argument("--repack", choices=REPACK, default="both", help="llama.cpp's repacked weights; default: both")
    parser.add_argument("--alone", action="store_true", help="without llama.cpp")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every sample there")
    parser.add_argument("--plot", type=Path, metavar="OUT.svg", help="draw the ratios there")
    parser.add_argument("--folder", type=Path, default=_cache_folder(), help="of made models; default: %(default)s")
    return parser.parse_args(arguments)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stepahead" / "peers"


def _run(options: argparse.Namespace) -> None:
    if options.tokens is None:
        options.tokens = DECODED if options.synth_rates is None else FORCED_DECODED
    rates = None if options.synth_rates is None else parse_rates(options.synth_rates)
    _check(options)
    load_average = os.getloadavg()[0]  # before anything of ours runs
    shape = _shape(options)
    repacks = () if options.alone else REPACK[options.repack]
    _check_memory(_model_bytes(options, shape), num_copies=1 + sum(repacks))
    path = _model_path(options, shape)
    file = GGUFFile.open(path)
    weights = Weights.of(file)
    plan, notes = _plan(options, file, len(weights.per_head))
    settings = _settings(options, path, plan.context_length)
    facts = _facts(options, file, load_average)
    for shard in file.shards:
        _read_once(shard)
    Worker(settings[0]).close()  # ours: its first start may write repacked weights, and is not measured
    if rates is not None:
        _run_forced(options, settings, plan, facts, rates)
        return
    with ExitStack() as stack:
        bandwidth = ReadBandwidth(options.threads, READ_BYTES)
        stack.callback(bandwidth.close)
        results = _measure(options, settings, plan, weights, bandwidth)
    _say("")
    if options.json is not None:
        options.json.write_text(json.dumps(as_object(facts, results), indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        options.plot.write_text(draw(facts, results.figures), encoding="utf-8")
    sys.stdout.write("\n".join([as_text(facts, results), *notes]) + "\n")
    doubtful = doubtful_peers(results)
    if doubtful:
        raise WorkerError(f"{', '.join(doubtful)}: not the answers of {OURS}; the figures compare two different things")


def _run_forced(
    options: argparse.Namespace, settings: list[Setting], plan: Plan, facts: dict[str, Any], rates: tuple[float, ...]
) -> None:
    if plan.num_heads == 0:
        raise ConfigError("--synth-rates forces what MTP heads draft, and this model has none: give one with heads")
    found = forced.contenders(settings, plan.num_heads, rates)
    speeds = forced.measure_forced(found, plan.vocab_size, plan.prefix, plan.num_tokens, rates, options.rounds, _say)
    _say("")
    if options.json is not None:
        report = forced.as_object(facts, rates, plan.num_tokens, speeds)
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(forced.as_text(facts, rates, plan.num_tokens, speeds) + "\n")


def _measure(
    options: argparse.Namespace, settings: list[Setting], plan: Plan, weights: Weights, bandwidth: ReadBandwidth
) -> Results:
    tasks = make_tasks(plan, weights, options.only)
    has_loads = any(pattern in ("*", "load") for pattern in options.only)
    if not tasks and not has_loads:
        raise ConfigError(f"--only {' '.join(options.only)} matches no figure: see --help for the keys")
    loads = measure_loads(settings, options.rounds, bandwidth, _say) if has_loads else []
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(setting)) for setting in settings]
        results = measure_rounds(workers, plan, tasks, options.rounds, bandwidth, _say)
    for figure in loads:
        results.figures.append(figure)
        results.bandwidth += figure.bandwidth
    return results


def _check(options: argparse.Namespace) -> None:
    for name, low in (("rounds", 1), ("threads", 1), ("prefix", 2), ("tokens", 2)):
        if getattr(options, name) < low:
            raise ConfigError(f"--{name} {getattr(options, name)}: give at least {low}")
    if min(options.prompts, default=1) < 1:
        raise ConfigError("--prompts: give lengths of at least 1")
    reason = None if options.alone else llama.why_missing()
    if reason is not None:
        raise ConfigError(f"{reason}; or give --alone to measure without llama.cpp")
    if options.synth_rates is not None and options.plot is not None:
        raise ConfigError("--plot draws what --synth-rates leaves out: give --json, or one of them")
    for out in (options.json, options.plot):
        if out is not None and not out.parent.is_dir():
            raise ConfigError(f"{out}: no such folder {out.parent}; create it first")


def _shape(options: argparse.Namespace) -> Shape | None:
    """Of a model to be made; None for one that is there."""
    shape = PRESETS.get(options.model)
    if options.experts is None:
        return shape
    if shape is None:
        raise ConfigError(f"--experts is for made models ({', '.join(PRESETS)}), not for {options.model}")
    return replace(shape, num_experts=options.experts)


def _model_bytes(options: argparse.Namespace, shape: Shape | None) -> int:
    if shape is not None:
        return nbytes(shape)
    with GGUFFile.open(_given_path(options)) as file:
        return sum(shard.stat().st_size for shard in file.shards)


def _model_path(options: argparse.Namespace, shape: Shape | None) -> Path:
    if shape is None:
        return _given_path(options)
    if not (options.folder / shape.file_name).exists():
        _say(f"writing {options.folder / shape.file_name}")
    return make_model(shape, options.folder)


def _given_path(options: argparse.Namespace) -> Path:
    path = demo_path() if options.model == DEMO else Path(options.model)
    if not path.is_file():
        raise ConfigError(f"--model {options.model}: no such file; give one of {', '.join(PRESETS)}, {DEMO}, or a path")
    return path


def _plan(options: argparse.Namespace, file: GGUFFile, num_heads: int) -> tuple[Plan, list[str]]:
    """And what was left out, and why."""
    arch = file.get_str("general.architecture")
    context = file.get_int(f"{arch}.context_length")
    plan = Plan(
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        num_heads=num_heads,
        prefix=options.prefix,
        num_tokens=options.tokens,
        prompts=tuple(options.prompts),
        seconds=options.seconds,
    )
    fitting = tuple(length for length in plan.prompts if replace(plan, prompts=(length,)).context_length <= context)
    notes = [f"prompt of {n:,}: left out, the context ends at {context:,}" for n in plan.prompts if n not in fitting]
    if num_heads < 3:
        notes.append(f"cycles deeper than {num_heads}: left out, the file has {num_heads} heads")
    plan = replace(plan, prompts=fitting)
    if plan.context_length > context:
        raise ConfigError(f"--prefix {plan.prefix} needs a context of {plan.context_length}, the model's is {context}")
    return plan, notes


def _settings(options: argparse.Namespace, path: Path, context_length: int) -> list[Setting]:
    """Ours first."""
    ours = Setting(OURS, "stepahead", str(path), options.threads, context_length)
    if options.alone:
        return [ours]
    names = {True: "llama.cpp repacked", False: "llama.cpp file layout"}
    peers = [replace(ours, name=names[on], engine="llama.cpp", repack=on) for on in REPACK[options.repack]]
    return [ours, *peers]


def _check_memory(model_bytes: int, num_copies: int) -> None:
    """The file is in the page cache once for all; repacked weights are a copy."""
    available = _available_memory()
    needed = num_copies * model_bytes + READ_BYTES + SPARE_MEMORY
    if available is not None and needed > available:
        way_out = "--repack off needs no second copy" if num_copies > 1 else "give a smaller model, or fewer --experts"
        raise ConfigError(
            f"about {needed / 1e9:.1f} GB of memory are needed and {available / 1e9:.1f} GB are available; what does "
            f"not fit is read from disk, and measures the disk: {way_out}"
        )


def _available_memory() -> int | None:
    """None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _read_once(path: Path) -> None:
    """Into the page cache, so that no side pays for the disk."""
    buffer = bytearray(READ_CHUNK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _facts(options: argparse.Namespace, file: GGUFFile, load_average: float) -> dict[str, Any]:
    return {
        "version": stepahead.__version__,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{cpu_name()}, {system_name()}",
        "model": options.model if options.experts is None else f"{options.model}, {options.experts} experts",
        "file": file.path.name,
        "model_bytes": sum(shard.stat().st_size for shard in file.shards),
        "threads": options.threads,
        "rounds": options.rounds,
        "prefix": options.prefix,
        "load_average": load_average,
        "peer": None if options.alone else f"llama.cpp {llama.BUILD}",
    }


def _commit() -> str:
    """Of the checkout; with a + where it has changes."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no checkout"


def _say(text: str) -> None:
    """Progress, over itself on a terminal; nothing elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{text}")
        sys.stderr.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave by the with-blocks: no worker stays behind
    sys.exit(main())
