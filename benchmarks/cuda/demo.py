"""M8: the embedded model on the GPU: the text that it writes without drafts, and faster than the CPU writes it."""

from benchmarks.cuda.bench import Bench
from stepahead import LLM, SamplingParams, Speculation

PROMPTS = (
    "def fibonacci(n):\n",
    "class Stack:\n    def __init__(self):\n",
    "import os\n\ndef read_lines(path):\n",
)
TOKENS, WARM_TOKENS = 160, 48
MODES = {"plain": Speculation("off"), "drafts": Speculation("mtp", 3, adaptive=False), "auto": Speculation()}
SAMPLED = SamplingParams(max_tokens=TOKENS, temperature=0.8, top_p=0.95, seed=5, ignore_eos=True)


def measure(bench: Bench) -> None:
    prompts, modes = (PROMPTS[:1], ("plain", "drafts")) if bench.is_toy else (PROMPTS, tuple(MODES))
    num_tokens = 2 if bench.is_toy else TOKENS
    bench.made = None  # it takes nearly all of the memory
    bench.free_memory()
    found = {}
    gpu = "cpu" if bench.is_toy else "cuda"  # in the interpreter four tokens take minutes
    for device in {gpu: None, "cpu": None}:
        with LLM.demo(device=device, max_num_seqs=1) as llm:
            found[device] = {mode: _run(llm, mode, prompts, num_tokens) for mode in modes}
            for mode, (texts, rate) in found[device].items():
                bench.report("M8", f"{device}, {mode}", tokens_s=rate, tokens=sum(map(len, texts)))
            if device == gpu:
                _exact(bench, llm, {mode: texts for mode, (texts, _) in found[device].items()})
    same = sum(a == b for a, b in zip(found[gpu]["plain"][0], found["cpu"]["plain"][0], strict=True))
    bench.report("M8", "texts as the CPU's", count=f"{same} of {len(prompts)}")
    for mode in ("plain", modes[-1]):
        ratio = found[gpu][mode][1] / found["cpu"][mode][1]
        bench.report("M8", f"{mode} ÷ CPU", target="demo speed", value=ratio)


def _exact(bench: Bench, llm: LLM, texts: dict[str, list[list[int]]]) -> None:
    """Greedily, and with a seed; and side by side."""
    faults = [mode for mode, found in texts.items() if found != texts["plain"]]
    if not bench.is_toy:
        sampled = [llm.generate(PROMPTS[0], SAMPLED, speculation).token_ids for speculation in MODES.values()]
        faults += [] if all(ids == sampled[0] for ids in sampled) else ["with a seed"]
    bench.report("M8", "texts that differ from plain ones", names=", ".join(faults) or "none",
                 target="demo exact", value=float(not faults))  # fmt: skip


def _run(llm: LLM, mode: str, prompts: tuple[str, ...], num_tokens: int) -> tuple[list[list[int]], float]:
    """Texts, and tokens a second behind the first one of each."""
    texts: list[list[int]] = []
    seconds, timed = 0.0, 0
    if num_tokens > WARM_TOKENS:
        llm.generate(prompts[0], SamplingParams(max_tokens=WARM_TOKENS, ignore_eos=True), MODES[mode])
    for prompt in prompts:
        done = llm.generate(prompt, SamplingParams(max_tokens=num_tokens, ignore_eos=True), MODES[mode])
        texts.append(list(done.token_ids))
        seconds += done.timings.generation_seconds
        timed += done.timings.generated_tokens - 1
    return texts, timed / seconds if seconds else float("nan")
