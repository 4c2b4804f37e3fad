"""The flags that commands share, as annotated types, and what they become: LoadOptions, SamplingParams, Speculation.

Only what a flag cannot mean is refused here; ranges are the engine's to check, so that both doors say the same.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stepahead.errors import ConfigError

if TYPE_CHECKING:
    from stepahead import SamplingParams, Speculation

MODEL_PANEL = "Model"
SAMPLING_PANEL = "Sampling"
DRAFTING_PANEL = "Drafting (changes the speed, never the text)"
OUTPUT_PANEL = "Output"

ModelArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="MODEL",
        help="A GGUF file, the first shard of a split one, or a name of `stepahead list`. Without it: the embedded "
        "demo model.",
        show_default=False,
    ),
]
OR_A_NAME = "or a name of `stepahead list`."
MtpOption = Annotated[
    str,
    typer.Option(
        "--mtp",
        help="MTP heads: 'auto' (in the file, or pulled with it), 'off', or a companion: a file, " + OR_A_NAME,
        rich_help_panel=MODEL_PANEL,
    ),
]
KVType = Literal["f16", "f32", "q8_0"]
KVTypeOption = Annotated[
    KVType, typer.Option("--kv-type", help="How keys and values are stored.", rich_help_panel=MODEL_PANEL)
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", help="CPU threads. Default: the physical cores.", rich_help_panel=MODEL_PANEL),
]
ContextOption = Annotated[
    str | None,
    typer.Option(
        "--context-length",
        metavar="TOKENS|auto",
        help="Tokens of context; 'auto': as many as fit into the free memory. Default: the model's, at most 32768.",
        rich_help_panel=MODEL_PANEL,
    ),
]
MemoryOption = Annotated[
    float | None,
    typer.Option(
        "--memory-gb",
        help="What all of this may take; 'inf': whatever it takes. Default: what is free.",
        rich_help_panel=MODEL_PANEL,
    ),
]
RepackOption = Annotated[
    str,
    typer.Option(
        "--repack",
        help="Repacked weights, which are faster: 'auto' (a large model's are kept), 'never', or a folder for them.",
        rich_help_panel=MODEL_PANEL,
    ),
]
DraftVocabOption = Annotated[
    str,
    typer.Option(
        "--draft-vocab",
        help="How many of the most frequent tokens a draft may be of: 'auto', 'full' or a number. Never the text.",
        rich_help_panel=MODEL_PANEL,
    ),
]
DraftType = Literal["file", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0"]
DraftTypeOption = Annotated[
    DraftType,
    typer.Option(
        "--draft-type", help="Type of the heads' large matrices, if the file's is larger.", rich_help_panel=MODEL_PANEL
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:N]",
        help="Where to compute: 'auto' is a GPU if there is one that the model fits on, else the CPU. 'reference' is "
        "the slow specification in numpy.",
        rich_help_panel=MODEL_PANEL,
    ),
]
CpuExpertsOption = Annotated[
    str,
    typer.Option(
        "--cpu-experts",
        metavar="N|auto",
        help="Of a model larger than the GPU: of how many layers, the last ones, the CPU computes the routed experts. "
        "'auto': as few as fit.",
        rich_help_panel=MODEL_PANEL,
    ),
]
GpuLayersOption = Annotated[
    int | None,
    typer.Option(
        "--gpu-layers",
        metavar="N",
        help="The same the other way round: experts of the first N layers are on the GPU, the others on the CPU.",
        rich_help_panel=MODEL_PANEL,
        show_default=False,
    ),
]

PromptOption = Annotated[str | None, typer.Option("-p", "--prompt", help="Text to continue.", show_default=False)]
FileOption = Annotated[
    Path | None, typer.Option("--file", help="Read the prompt from a file; '-': standard input.", show_default=False)
]
SvgOption = Annotated[
    Path | None,
    typer.Option(
        "--svg", help="Also draw the run into this SVG file.", rich_help_panel=OUTPUT_PANEL, show_default=False
    ),
]

PlotOption = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        help="Also draw the figures into this .png or .svg file; needs the extra 'plot'.",
        rich_help_panel=OUTPUT_PANEL,
        show_default=False,
    ),
]

MaxTokensOption = Annotated[
    int | None, typer.Option("--max-tokens", help="Most tokens to generate.", rich_help_panel=SAMPLING_PANEL)
]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", help="0 takes the best token each time.", rich_help_panel=SAMPLING_PANEL)
]
TopKOption = Annotated[
    int, typer.Option("--top-k", help="Sample from the k best tokens; 0: all.", rich_help_panel=SAMPLING_PANEL)
]
TopPOption = Annotated[
    float,
    typer.Option(
        "--top-p", help="Sample from the best tokens that hold this probability.", rich_help_panel=SAMPLING_PANEL
    ),
]
MinPOption = Annotated[
    float,
    typer.Option(
        "--min-p", help="Drop tokens below this share of the best one's probability.", rich_help_panel=SAMPLING_PANEL
    ),
]
RepetitionOption = Annotated[
    float,
    typer.Option(
        "--repetition-penalty", help="Over 1: tokens of prompt and output count less.", rich_help_panel=SAMPLING_PANEL
    ),
]
PresenceOption = Annotated[
    float,
    typer.Option("--presence-penalty", help="Off a token that is in the output.", rich_help_panel=SAMPLING_PANEL),
]
FrequencyOption = Annotated[
    float,
    typer.Option(
        "--frequency-penalty", help="Off a token for each time it is in the output.", rich_help_panel=SAMPLING_PANEL
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Same seed, same text. Default: drawn.", rich_help_panel=SAMPLING_PANEL)
]
StopOption = Annotated[
    list[str] | None,
    typer.Option(
        "--stop", help="End before this text; may be given again.", rich_help_panel=SAMPLING_PANEL, show_default=False
    ),
]
StopIdOption = Annotated[
    list[int] | None,
    typer.Option(
        "--stop-token-id",
        help="End at this token; may be given again.",
        rich_help_panel=SAMPLING_PANEL,
        show_default=False,
    ),
]
IgnoreEosOption = Annotated[
    bool, typer.Option("--ignore-eos", help="Go on after the model's end token.", rich_help_panel=SAMPLING_PANEL)
]

SpeculationMode = Literal["auto", "off", "mtp", "copy"]
SpeculationOption = Annotated[
    SpeculationMode | None,
    typer.Option(
        "--speculation",
        help="'auto': each draft token has to be worth its cost, whoever drafts it; 'mtp': from heads alone, or fail "
        "without them; 'copy': from prompt and output alone. Default: auto.",
        rich_help_panel=DRAFTING_PANEL,
        show_default=False,
    ),
]
DepthOption = Annotated[
    int | None,
    typer.Option("--depth", help="Draft exactly this many tokens a step; 0: none.", rich_help_panel=DRAFTING_PANEL),
]
MaxDepthOption = Annotated[
    int | None,
    typer.Option("--max-depth", help="Draft at most this many tokens a step.", rich_help_panel=DRAFTING_PANEL),
]
Chain = Literal["exact", "catchup"]
ChainOption = Annotated[
    Chain,
    typer.Option(
        "--chain",
        help="Input of the later heads: 'exact' as trained, 'catchup' as in llama.cpp.",
        rich_help_panel=DRAFTING_PANEL,
    ),
]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        help="Write a line for each step into this file; `stepahead trace` shows it.",
        rich_help_panel=DRAFTING_PANEL,
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object instead.", rich_help_panel=OUTPUT_PANEL)
]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What decides how a model is loaded; `model` None is the demo model."""

    model: Path | None
    mtp: str = "auto"
    kv_type: KVType = "f16"
    threads: int | None = None
    context_length: str | None = None
    device: str = "auto"
    repack: str = "auto"
    draft_vocab: str = "auto"
    draft_type: DraftType = "file"
    memory_gb: float | None = None
    cpu_experts: str = "auto"
    gpu_layers: int | None = None

    @property
    def experts(self) -> dict[str, Any]:
        """Where those of a model lie, as LLM and EngineConfig name it."""
        text = self.cpu_experts
        return {"cpu_experts": int(text) if text.isdecimal() else text, "gpu_layers": self.gpu_layers}


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """The sampling flags as they were given."""

    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False

    def params(self) -> "SamplingParams":
        """Raises RequestError for a value out of range."""
        from stepahead import SamplingParams

        return SamplingParams(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.seed,
            stop=tuple(self.stop or ()),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=self.ignore_eos,
        )


def context_length(text: str | None) -> int | str | None:
    """What --context-length says. Raises ConfigError for what is neither a number nor auto."""
    if text is None or text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--context-length {text!r} is no number of tokens: give one, or auto") from None


def speculation(mode: SpeculationMode | None, depth: int | None, max_depth: int | None, chain: Chain) -> "Speculation":
    """What the drafting flags ask for. A fixed depth insists on heads, as --speculation mtp does; 0 is off.

    Raises ConfigError for flags that contradict each other, RequestError for values out of range.
    """
    from stepahead import Speculation

    if depth is not None and max_depth is not None:
        raise ConfigError(f"--depth {depth} fixes what --max-depth {max_depth} bounds: give one of them")
    if mode == "off" and (depth or max_depth):
        flag = f"--depth {depth}" if depth else f"--max-depth {max_depth}"
        raise ConfigError(f"--speculation off drafts nothing, {flag} asks for drafts: give one of them")
    if depth is None:
        return Speculation(mode or "auto", depth=max_depth, chain=chain)
    return Speculation(mode or ("mtp" if depth else "off"), depth=depth, adaptive=False, chain=chain)
