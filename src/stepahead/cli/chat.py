"""`stepahead chat`: a conversation in the terminal. Reads lines, obeys /commands, leaves the answers to ChatSession."""

import io
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from stepahead.cli import options as o
from stepahead.cli.chat_session import ChatSession
from stepahead.cli.console import one_line, stderr
from stepahead.cli.loading import introduce, open_llm
from stepahead.cli.tracing import traced
from stepahead.errors import ConfigError, RequestError

HELP = """/reset          forget the conversation
/system TEXT    set the system message, or remove it with no TEXT; begins anew
/stats          speed and acceptance so far
/help           this list
/exit           leave, as Ctrl-D does; Ctrl-C stops an answer"""


def chat(
    model: o.ModelArgument = None,
    system: Annotated[str | None, typer.Option("--system", help="The system message.", show_default=False)] = None,
    max_tokens: o.MaxTokensOption = None,
    temperature: o.TemperatureOption = 0.0,
    top_k: o.TopKOption = 0,
    top_p: o.TopPOption = 1.0,
    min_p: o.MinPOption = 0.0,
    repetition_penalty: o.RepetitionOption = 1.0,
    presence_penalty: o.PresenceOption = 0.0,
    frequency_penalty: o.FrequencyOption = 0.0,
    seed: o.SeedOption = None,
    stop: o.StopOption = None,
    speculation: o.SpeculationOption = None,
    depth: o.DepthOption = None,
    max_depth: o.MaxDepthOption = None,
    chain: o.ChainOption = "exact",
    trace: o.TraceOption = None,
    mtp: o.MtpOption = "auto",
    kv_type: o.KVTypeOption = "f16",
    threads: o.ThreadsOption = None,
    context_length: o.ContextOption = None,
    device: o.DeviceOption = "auto",
    repack: o.RepackOption = "auto",
    draft_vocab: o.DraftVocabOption = "auto",
    draft_type: o.DraftTypeOption = "file",
    memory_gb: o.MemoryOption = None,
    cpu_experts: o.CpuExpertsOption = "auto",
    gpu_layers: o.GpuLayersOption = None,
) -> None:
    """Talk to a model that has a chat template. Ctrl-C stops an answer, Ctrl-D leaves.

    \b
    Examples:
      stepahead chat model.gguf
      stepahead chat model.gguf --system "Answer in one sentence." --temperature 0.7
      echo "What is a KV cache?" | stepahead chat model.gguf

    In the conversation: /reset, /system TEXT, /stats, /help, /exit.
    """
    params = o.SamplingOptions(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seed=seed,
        stop=stop,
    ).params()
    drafting = o.speculation(speculation, depth, max_depth, chain)
    load = o.LoadOptions(
        model, mtp, kv_type, threads, context_length, device, repack, draft_vocab, draft_type, memory_gb, cpu_experts,
        gpu_layers,
    )  # fmt: skip
    with open_llm(load) as llm:
        if not llm.info.has_chat_template:
            raise ConfigError(
                f"{llm.info.path}: has no chat template, so it completes text and does not converse: use stepahead run"
            )
        introduce(llm)
        if model is None:
            _say("the demo model completes Python and is no assistant: give a MODEL for answers")
        with traced(llm, trace):
            converse(ChatSession(llm, params, drafting, system), line_reader(), is_lenient=sys.stdin.isatty())


def line_reader() -> Callable[[], str | None]:
    """Gives the next line, None at the end of input. In a terminal with editing and history."""
    is_terminal = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no text: the tokenizer refuses them by name
    if is_terminal:
        try:
            import readline  # noqa: F401  # input() edits lines once it is imported
        except ImportError:  # not on every system
            stderr().out("no line editing: this Python has no readline", style="dim", highlight=False)

    def read() -> str | None:
        try:
            return input("> " if is_terminal else "")
        except EOFError:
            return None

    return read


def converse(session: ChatSession, read: Callable[[], str | None], is_lenient: bool) -> None:
    """Until the input ends or /exit. If lenient, an error of one request is a line, and the session goes on."""
    while True:
        try:
            line = read()
        except KeyboardInterrupt:
            _say("\nCtrl-D or /exit leaves")
            continue
        if line is None or line.strip() == "/exit":
            return
        if not line.strip():
            continue
        if line.startswith("/"):
            _say(_obey(session, line))
            continue
        try:
            if session.answer(line) is None:
                _say("(stopped)")
        except RequestError as error:
            if not is_lenient:
                raise
            _say(f"{one_line(str(error))}; /reset forgets the conversation")


def _obey(session: ChatSession, line: str) -> str:
    """Do what a /command says; the answer to it."""
    name, _, argument = line.strip().partition(" ")
    match name:
        case "/reset":
            session.reset()
            return "forgotten"
        case "/system":
            session.system = argument.strip() or None
            session.reset()
            return "the system message is set" if session.system else "there is no system message"
        case "/stats":
            return session.stats()
        case "/help":
            return HELP
        case _:
            return f"{name} is no command; /help lists them"


def _say(text: str) -> None:
    stderr().out(text, style="dim", highlight=False)
