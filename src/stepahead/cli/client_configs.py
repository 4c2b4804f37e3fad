"""Settings of other people's clients, ready to be copied, for `stepahead serve --print-config CLIENT`.

Each function gives the text for one client; docs/clients.md shows the same texts.
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from stepahead.errors import ConfigError

KEY_VARIABLE = "STEPAHEAD_API_KEY"
_NO_KEY = "none"  # clients insist on some key, a server without keys on none
_MAX_OUTPUT_TOKENS = 32_000
_MIN_COMPACT_WINDOW = 100_000  # Claude Code takes less for a mistake, and says so at each start


@dataclass(frozen=True, slots=True)
class _Server:
    root: str  # without /v1
    model: str
    context: int
    has_key: bool

    @property
    def v1(self) -> str:
        return f"{self.root}/v1"

    @property
    def output(self) -> int:
        """What clients may set aside for an answer: a quarter of a small context."""
        return min(_MAX_OUTPUT_TOKENS, self.context // 4)

    @property
    def shell_key(self) -> str:
        return f'"${KEY_VARIABLE}"' if self.has_key else _NO_KEY

    @property
    def shell_model(self) -> str:
        return shlex.quote(self.model)


def print_config(client: str, base_url: str, model_id: str, context_length: int, has_key: bool) -> str:
    """The settings with which `client` uses a server at base_url. Raises ConfigError for an unknown client."""
    configure = _CLIENTS.get(client)
    if configure is None:
        raise ConfigError(f"there are no settings for {client!r}: give one of {', '.join(CLIENTS)}")
    root = base_url.rstrip("/").removesuffix("/v1")
    return configure(_Server(root, model_id, context_length, has_key)) + "\n"


def _claude_code(server: _Server) -> str:
    variables = {
        "ANTHROPIC_BASE_URL": server.root,
        "ANTHROPIC_AUTH_TOKEN": server.shell_key,
        "ANTHROPIC_MODEL": server.shell_model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": server.shell_model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": server.shell_model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": server.shell_model,
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": server.context,
        **({"CLAUDE_CODE_AUTO_COMPACT_WINDOW": server.context} if server.context >= _MIN_COMPACT_WINDOW else {}),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": server.output,
        "CLAUDE_CODE_ATTRIBUTION_HEADER": 0,
        "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": 1,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": 1,
        "API_TIMEOUT_MS": 3_600_000,
    }
    exports = [f"export {name}={value}" for name, value in variables.items()]
    # Its auto mode has Anthropic's server judge what is dangerous.
    return "\n".join(["# Claude Code: in the shell that starts it", *exports, "claude --permission-mode default"])


def _codex(server: _Server) -> str:
    key = [f"env_key = {_quoted(KEY_VARIABLE)}"] if server.has_key else []
    return "\n".join([
        "# Codex: ~/.codex/config.toml",
        f"model = {_quoted(server.model)}",
        'model_provider = "stepahead"',
        f"model_context_window = {server.context}",
        'web_search = "disabled"',
        "show_raw_agent_reasoning = true",
        "",
        "[model_providers.stepahead]",
        'name = "stepahead"',
        f"base_url = {_quoted(server.v1)}",
        'wire_api = "responses"',
        *key,
        "request_max_retries = 4",
        "stream_max_retries = 5",
        "stream_idle_timeout_ms = 300000",
    ])  # fmt: skip


def _opencode(server: _Server) -> str:
    model = {
        "name": server.model,
        "limit": {"context": server.context, "output": server.output},
        "reasoning": True,
        "tool_call": True,
        "interleaved": {"field": "reasoning_content"},
    }
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "stepahead",
        "options": {
            "baseURL": server.v1,
            "apiKey": f"{{env:{KEY_VARIABLE}}}" if server.has_key else _NO_KEY,
            "includeUsage": True,
        },
        "models": {server.model: model},
    }
    config = {
        "$schema": "https://opencode.ai/config.json",
        "model": f"stepahead/{server.model}",
        "provider": {"stepahead": provider},
    }
    return f"// OpenCode: opencode.json\n{json.dumps(config, indent=2)}"


def _aider(server: _Server) -> str:
    name = f"openai/{server.model}"
    metadata = {
        name: {
            "max_tokens": server.output,
            "max_input_tokens": server.context,
            "max_output_tokens": server.output,
            "litellm_provider": "openai",
            "mode": "chat",
        }
    }
    return "\n".join([
        "# Aider: in the shell that starts it",
        f"export OPENAI_API_BASE={server.v1}",
        f"export OPENAI_API_KEY={server.shell_key}",
        "cat > .aider.model.metadata.json <<'END'",
        json.dumps(metadata, indent=2),
        "END",
        "cat > .aider.model.settings.yml <<'END'",
        f"- name: {_quoted(name)}",
        "  edit_format: diff",
        "  use_repo_map: true",
        "  use_temperature: false",
        "END",
        f"aider --model {shlex.quote(name)}",
    ])  # fmt: skip


def _cline(server: _Server) -> str:
    key = f"the key of the server ({KEY_VARIABLE})" if server.has_key else f"{_NO_KEY} (it must not be empty)"
    flags = f"-k {server.shell_key} -m {server.shell_model} -b {server.v1}"
    return "\n".join([
        "# Cline: in the shell",
        f"cline auth -p openai-compatible {flags}",
        "",
        "# Cline in an editor: Settings, API Configuration",
        "API Provider:          OpenAI Compatible",
        f"Base URL:              {server.v1}",
        f"API Key:               {key}",
        f"Model ID:              {server.model}",
        f"Context Window Size:   {server.context}",
        f"Max Output Tokens:     {server.output}",
        "Supports Images:       off",
        "Enable R1 messages:    off",
    ])  # fmt: skip


def _continue(server: _Server) -> str:
    key = f"${{{{ secrets.{KEY_VARIABLE} }}}}" if server.has_key else _NO_KEY
    return "\n".join([
        "# Continue: ~/.continue/config.yaml",
        "name: stepahead",
        "version: 1.0.0",
        "schema: v1",
        "models:",
        f"  - name: {_quoted(server.model)}",
        "    provider: openai",
        f"    model: {_quoted(server.model)}",
        f"    apiBase: {_quoted(server.v1)}",
        f"    apiKey: {key}",
        "    roles: [chat, edit, apply]",
        "    capabilities: [tool_use]",
        "    defaultCompletionOptions:",
        f"      contextLength: {server.context}",
        f"      maxTokens: {server.output}",
    ])  # fmt: skip


def _open_webui(server: _Server) -> str:
    variables = {
        "ENABLE_OLLAMA_API": False,
        "OPENAI_API_BASE_URL": server.v1,
        "OPENAI_API_KEY": server.shell_key,
        "ENABLE_TITLE_GENERATION": False,
        "ENABLE_TAGS_GENERATION": False,
        "ENABLE_FOLLOW_UP_GENERATION": False,
        "ENABLE_AUTOCOMPLETE_GENERATION": False,
    }
    exports = [f"export {name}={value}" for name, value in variables.items()]
    return "\n".join(["# Open WebUI: in the shell that starts it (or as -e of its container)", *exports])


def _quoted(text: str) -> str:
    """As JSON, TOML and YAML quote it."""
    return json.dumps(text)


_CLIENTS: dict[str, Callable[[_Server], str]] = {
    "claude-code": _claude_code,
    "codex": _codex,
    "opencode": _opencode,
    "aider": _aider,
    "cline": _cline,
    "continue": _continue,
    "open-webui": _open_webui,
}
CLIENTS = tuple(_CLIENTS)
