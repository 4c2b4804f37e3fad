"""What `bench` decodes, and with which drafts: groups of texts and settings, as its flags ask for them."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stepahead.cli.bench_rounds import AUTO, COPY, PLAIN, Case, Setting
from stepahead.cli.options import Chain
from stepahead.cli.prompt import read_prompt, read_text
from stepahead.errors import ConfigError
from stepahead.texts import KINDS, load

if TYPE_CHECKING:
    from stepahead import LLM, SamplingParams

DEFAULT_TOKENS = 96

PROMPTS = (
    "def parse_arguments(argv):\n    parser = argparse.ArgumentParser(description=__doc__)\n",
    'class Stack:\n    """A last-in, first-out list."""\n\n    def __init__(self):\n',
    "import os\nimport sys\n\n\ndef main():\n    for name in sorted(os.listdir(sys.argv[1])):\n",
)


@dataclass(frozen=True, slots=True)
class TextOptions:
    """The flags that say what is decoded, as they were given."""

    prompt: str | None = None
    file: Path | None = None
    kinds: str | None = None
    replay: Path | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Texts that are measured together and share a table."""

    name: str  # a kind, or "" for the only group
    cases: tuple[Case, ...]

    @property
    def has_recordings(self) -> bool:
        return any(case.recording is not None for case in self.cases)


def make_groups(options: TextOptions) -> list[Group]:
    """Raises ConfigError for flags that contradict each other, and for what cannot be read or understood."""
    max_tokens = options.max_tokens
    if max_tokens is not None and max_tokens < 2:
        raise ConfigError(f"--max-tokens {max_tokens}: give at least 2, the clock starts after the first")
    is_given = options.prompt is not None or options.file is not None
    if options.kinds is not None:
        if is_given or options.replay is not None:
            raise ConfigError(
                f"--kinds {options.kinds} brings texts of its own: give it, or -p, --file and --replay, not both"
            )
        return [_kind(kind, max_tokens) for kind in parse_kinds(options.kinds)]
    if options.replay is not None:
        if not is_given:
            raise ConfigError(f"--replay {options.replay} goes on from a prompt: give --file ORIGINAL or -p TEXT")
        if options.file is not None and str(options.file) == str(options.replay) == "-":
            raise ConfigError("--file - and --replay - both read standard input: give one of them a path")
        prompt = read_prompt(options.prompt, options.file, is_demo=False)
        return [Group("", (Case(prompt, max_tokens, read_text(options.replay)),))]
    prompts = [read_prompt(options.prompt, options.file, is_demo=False)] if is_given else PROMPTS
    return [Group("", tuple(Case(prompt, max_tokens or DEFAULT_TOKENS) for prompt in prompts))]


def _kind(kind: str, max_tokens: int | None) -> Group:
    return Group(
        kind,
        tuple(
            Case(text.prompt, max_tokens or (DEFAULT_TOKENS if text.continuation is None else None), text.continuation)
            for text in load(kind)
        ),
    )


def parse_kinds(text: str) -> list[str]:
    """In the order given, each once."""
    kinds = [part.strip() for part in text.split(",")]
    if kinds == ["all"]:
        return list(KINDS)
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"--kinds {text!r}: there are no texts of kind {kind!r}: give {', '.join(KINDS)}, or all")
    return list(dict.fromkeys(kinds))


def parse_rates(text: str) -> tuple[float, ...]:
    """Shares by position. What shares may be is the engine's to check."""
    from stepahead.engine.replay import Replay

    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--synth-rates {text!r} is not understood: give shares such as '.8,.6,.45'") from None
    return Replay((), 0, rates).rates or ()


def with_rates(llm: "LLM", groups: list[Group], params: "SamplingParams", rates: tuple[float, ...]) -> list[Group]:
    """Every case as a recording with forced acceptance; where none is given, the model's own plain text is one."""
    from stepahead import Speculation

    if llm.model.draft is None:
        raise ConfigError("--synth-rates forces what MTP heads draft, and this model has none: give a model with heads")

    def forced(case: Case) -> Case:
        recording = case.recording
        if recording is None:
            params_of_case = replace(params, max_tokens=case.max_tokens)
            recording = llm.generate(case.prompt, params_of_case, Speculation("off")).token_ids
        return replace(case, recording=recording, rates=rates)

    return [replace(group, cases=tuple(map(forced, group.cases))) for group in groups]


def parse_depths(text: str) -> list[str]:
    """Names of settings: depths, each once and ascending, then copy and auto."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() or part in (COPY, AUTO) for part in parts):
        raise ConfigError(f"--depths {text!r} is not understood: give numbers such as '1,2,3', {COPY}, {AUTO}")
    depths = sorted({int(part) for part in parts if part.isdecimal()} - {0})
    return [*map(str, depths), *(name for name in (COPY, AUTO) if name in parts)]


def make_settings(llm: "LLM", names: Seq[str] | None, chain: Chain, with_copies: bool) -> list[Setting]:
    """Plain first. `names` None: each depth, copies if they are the matter, and auto.

    Raises RequestError for depths that the model has not.
    """
    if names is None:
        draft = llm.model.draft
        depths = range(1, draft.num_heads + 1) if draft is not None else ()
        names = [*map(str, depths), *([COPY] if with_copies else [])]
        names = [*names, AUTO] if names else []
    return [_setting(name, chain) for name in (PLAIN, *names)]


def _setting(name: str, chain: Chain) -> Setting:
    from stepahead import Speculation

    if name == PLAIN:
        return Setting(name, Speculation("off"))
    if name == COPY:
        return Setting(name, Speculation("copy"))
    if name == AUTO:
        return Setting(name, Speculation("auto", chain=chain))
    return Setting(name, Speculation("mtp", int(name), adaptive=False, chain=chain))
