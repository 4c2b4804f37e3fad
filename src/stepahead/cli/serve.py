"""`stepahead serve`: the model behind the HTTP APIs that clients know."""

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stepahead.cli import options as o
from stepahead.cli.client_configs import CLIENTS
from stepahead.cli.client_configs import print_config as client_settings
from stepahead.cli.console import announce, stdout, visible
from stepahead.cli.loading import introduce, open_llm
from stepahead.errors import ConfigError

LISTEN_PANEL = "Who may ask"
LIMITS_PANEL = "Limits"
API_PANEL = "Endpoints"


def serve(
    model: o.ModelArgument = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.", rich_help_panel=LISTEN_PANEL)] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", help="0: a free one.", rich_help_panel=LISTEN_PANEL)] = 8080,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            help="Keys, one a line, a label in front if you like. Also: STEPAHEAD_API_KEYS, separated by commas.",
            rich_help_panel=LISTEN_PANEL,
            show_default=False,
        ),
    ] = None,
    no_key: Annotated[
        bool,
        typer.Option(
            "--no-key", help="Everyone who can reach --host may ask, without a key.", rich_help_panel=LISTEN_PANEL
        ),
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin",
            help="Origin of a web page, or of an editor's view, that may ask; may be given again.",
            rich_help_panel=LISTEN_PANEL,
            show_default=False,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            help="Name by which this server may be asked, beside localhost; may be given again.",
            rich_help_panel=LISTEN_PANEL,
            show_default=False,
        ),
    ] = None,
    parallel: Annotated[
        int,
        typer.Option("--parallel", help="How many answers are computed side by side.", rich_help_panel=LIMITS_PANEL),
    ] = 8,
    max_step_ms: Annotated[
        float,
        typer.Option(
            "--max-step-ms",
            help="What a step may take while answers are written (or twice what it takes anyway): prompts beside them "
            "are cut to fit. 0: no limit.",
            rich_help_panel=LIMITS_PANEL,
        ),
    ] = 200.0,
    max_queued: Annotated[
        int, typer.Option("--max-queued", help="How many more may wait.", rich_help_panel=LIMITS_PANEL)
    ] = 64,
    max_queued_tokens: Annotated[
        int, typer.Option("--max-queued-tokens", help="Of prompts that wait.", rich_help_panel=LIMITS_PANEL)
    ] = 1 << 20,
    max_choices: Annotated[
        int, typer.Option("--max-choices", help="Of one request: n, times prompts.", rich_help_panel=LIMITS_PANEL)
    ] = 8,
    max_body_mb: Annotated[int, typer.Option("--max-body-mb", help="Of a request.", rich_help_panel=LIMITS_PANEL)] = 32,
    drain_seconds: Annotated[
        float,
        typer.Option("--drain-seconds", help="How long answers may finish at the end.", rich_help_panel=LIMITS_PANEL),
    ] = 30.0,
    cache_gb: Annotated[
        float | None,
        typer.Option(
            "--cache-gb",
            help="Memory for the beginnings of prompts that later ones may share.",
            rich_help_panel=LIMITS_PANEL,
            show_default="what two contexts take",
        ),
    ] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            "--cache-dir",
            help="Folder where they outlive the server. It holds what users wrote.",
            rich_help_panel=LIMITS_PANEL,
            show_default=False,
        ),
    ] = None,
    cache_dir_gb: Annotated[
        float, typer.Option("--cache-dir-gb", help="How large it may be.", rich_help_panel=LIMITS_PANEL)
    ] = 16.0,
    alias: Annotated[
        str | None,
        typer.Option(
            "--alias", help="Name of the model in answers.", rich_help_panel=API_PANEL, show_default="the file's name"
        ),
    ] = None,
    default_temperature: Annotated[
        float,
        typer.Option("--default-temperature", help="Of requests that give none.", rich_help_panel=API_PANEL),
    ] = 1.0,
    unknown_fields: Annotated[
        Literal["refuse", "warn"],
        typer.Option(
            "--unknown-fields",
            help="Fields of completions that no one knows: 400, or a header.",
            rich_help_panel=API_PANEL,
        ),
    ] = "refuse",
    reasoning_field: Annotated[
        Literal["reasoning_content", "reasoning"],
        typer.Option("--reasoning-field", help="Name of reasoning in chat completions.", rich_help_panel=API_PANEL),
    ] = "reasoning_content",
    keepalive_seconds: Annotated[
        float,
        typer.Option("--keepalive", help="Seconds of silence that a stream is let.", rich_help_panel=API_PANEL),
    ] = 10.0,
    responses_keepalive: Annotated[
        Literal["keepalive", "comment", "off"],
        typer.Option("--responses-keepalive", help="How /v1/responses breaks silence.", rich_help_panel=API_PANEL),
    ] = "keepalive",
    keep_billing_header: Annotated[
        bool,
        typer.Option(
            "--keep-billing-header",
            help="Leave Claude Code's billing block in prompts; it defeats the prefix cache.",
            rich_help_panel=API_PANEL,
        ),
    ] = False,
    no_turn_memory: Annotated[
        bool,
        typer.Option(
            "--no-turn-memory",
            help="Make prompts of the request alone: neither the tokens of earlier answers nor reasoning that a client "
            "leaves out come back.",
            rich_help_panel=API_PANEL,
        ),
    ] = False,
    share_prefixes: Annotated[
        bool,
        typer.Option(
            "--share-prefixes",
            help="Let keys find what prompts of other keys computed: the time of an answer then tells what others "
            "asked.",
            rich_help_panel=LISTEN_PANEL,
        ),
    ] = False,
    trust_special: Annotated[
        bool,
        typer.Option(
            "--trust-special",
            help="Control tokens spelt out in messages become control tokens: clients can then forge turns.",
            rich_help_panel=API_PANEL,
        ),
    ] = False,
    print_config: Annotated[
        str | None,
        typer.Option(
            "--print-config",
            help=f"Print the settings of a client for this server, and leave: {', '.join(CLIENTS)}.",
            rich_help_panel=API_PANEL,
            show_default=False,
        ),
    ] = None,
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
    """Serve a model over HTTP: OpenAI's chat, text completions and responses, Anthropic's messages, and a chat page.

    Needs the extra 'server'. STEPAHEAD_LOG=info logs a line for each request; prompts and answers are never logged.

    \b
    Examples:
      stepahead serve model.gguf
      stepahead serve model.gguf --port 9000 --alias step --api-key-file keys.txt
      stepahead serve model.gguf --host 0.0.0.0 --api-key-file keys.txt --allowed-host box.example
      stepahead serve model.gguf --print-config codex
    """
    of_weights = device, repack, draft_vocab, draft_type, memory_gb, cpu_experts, gpu_layers
    load = o.LoadOptions(model, mtp, kv_type, threads, context_length, *of_weights)
    name = alias or ("stepahead-demo" if model is None else model.name.removesuffix(".gguf"))
    if print_config is not None:
        _print_settings(print_config, load, parallel, _url(host, port), name, api_key_file)
        return
    try:
        from stepahead.async_llm import AsyncLLM, QueueLimits
        from stepahead.server import app, transport
        from stepahead.server.config import ServerConfig, read_keys
        from stepahead.server.endpoint import EndpointSettings
        from stepahead.server.service import LLMService
        from stepahead.server.state_key import kept_key
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'stepahead[server]'") from None
    config = ServerConfig(
        host=host,
        port=port,
        keys=read_keys(api_key_file),
        is_open=no_key,
        cors_origins=tuple(cors_origin or ()),
        allowed_hosts=tuple(one.lower() for one in allowed_host or ()),
        queue=QueueLimits(_positive("--max-queued", max_queued), _positive("--max-queued-tokens", max_queued_tokens)),
        max_choices=_positive("--max-choices", max_choices),
        max_body_bytes=_positive("--max-body-mb", max_body_mb) << 20,
        drain_seconds=drain_seconds,
        protects_special=not trust_special,
        memory_bytes=0 if no_turn_memory else 4 << 20,
        shares_prefixes=share_prefixes,
        endpoints=EndpointSettings(
            unknown_fields=unknown_fields,
            reasoning_field=reasoning_field,
            keepalive_seconds=max(keepalive_seconds, 0.1),
            responses_keepalive=responses_keepalive,
            strips_billing_header=not keep_billing_header,
            default_temperature=default_temperature,
            state_key=kept_key(),
        ),
    )
    listener = transport.listen(config)

    def introduced(url: str = transport.address(listener)) -> None:
        introduce(service.llm.llm)
        announce(f"{visible(name)} is served at {url} (API: {url}/docs)")

    cache: dict[str, Any] = {"cache_gb": cache_gb, "cache_dir": cache_dir, "cache_dir_gb": cache_dir_gb}
    loaded = partial(open_llm, load, parallel, max_step_ms=max_step_ms or None, **cache)
    service = LLMService(AsyncLLM(loaded, config.queue), config, name)
    asyncio.run(transport.serve(service, app.make_app(service), listener, introduced))


def _print_settings(
    client: str, load: o.LoadOptions, parallel: int, url: str, name: str, api_key_file: Path | None
) -> None:
    """For a client; the file's header tells the context, its weights are not read."""
    from stepahead.cli.memory_report import fitted_context
    from stepahead.demo import demo_path

    context = fitted_context(demo_path() if load.model is None else load.model, load, parallel)
    has_key = api_key_file is not None or bool(os.environ.get("STEPAHEAD_API_KEYS"))
    stdout().out(client_settings(client, url, name, context, has_key), highlight=False, end="")


def _url(host: str, port: int) -> str:
    """How clients of this machine reach it."""
    if port == 0:
        raise ConfigError("--print-config with --port 0: settings need a port that stays")
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _positive(flag: str, value: int) -> int:
    if value < 1:
        raise ConfigError(f"{flag} {value} is out of range: give at least 1")
    return value
