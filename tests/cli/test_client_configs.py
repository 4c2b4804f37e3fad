"""Printed settings of other people's clients: each in the syntax of the client, with this server's numbers."""

import json
import re
import shlex
import tomllib

import pytest

from stepahead.cli.client_configs import CLIENTS, KEY_VARIABLE, print_config
from stepahead.errors import ConfigError

ROOT = "http://127.0.0.1:8080"


def shown(client: str, has_key: bool = False, url: str = ROOT, context: int = 65536) -> str:
    text = print_config(client, url, "step 3.5/q4", context, has_key)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    return text


def exports(text: str) -> dict[str, str]:
    lines = [line.removeprefix("export ") for line in text.splitlines() if line.startswith("export ")]
    return dict(shlex.split(line)[0].split("=", 1) for line in lines)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_key_is_named_where_there_is_one_and_never_shown(client):
    assert KEY_VARIABLE in shown(client, has_key=True)
    assert KEY_VARIABLE not in shown(client)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("url", [ROOT, f"{ROOT}/", f"{ROOT}/v1", f"{ROOT}/v1/"])
def test_any_form_of_the_address_is_the_same(client, url):
    assert shown(client, url=url) == shown(client)


def test_claude_code():
    variables = exports(shown("claude-code", has_key=True))
    assert variables["ANTHROPIC_BASE_URL"] == ROOT
    assert variables["ANTHROPIC_AUTH_TOKEN"] == f"${KEY_VARIABLE}"
    assert variables["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "step 3.5/q4"
    assert variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "65536"
    assert variables["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "16384"
    assert shown("claude-code").endswith("\nclaude --permission-mode default\n")


@pytest.mark.parametrize(("context", "is_told"), [(99_999, False), (100_000, True)])
def test_claude_code_is_told_no_window_that_it_takes_for_a_mistake(context, is_told):
    variables = exports(shown("claude-code", context=context))
    assert variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == str(context)
    assert ("CLAUDE_CODE_AUTO_COMPACT_WINDOW" in variables) == is_told


@pytest.mark.parametrize("has_key", [False, True])
def test_codex(has_key):
    config = tomllib.loads(shown("codex", has_key))
    provider = config["model_providers"][config["model_provider"]]
    assert (config["model"], config["model_context_window"]) == ("step 3.5/q4", 65536)
    assert provider["wire_api"] == "responses"
    assert provider["base_url"] == f"{ROOT}/v1"
    assert provider["name"] != "OpenAI"
    assert ("env_key" in provider) == has_key


def test_opencode():
    config = json.loads(shown("opencode").partition("\n")[2])
    provider = config["provider"]["stepahead"]
    assert provider["options"]["baseURL"] == f"{ROOT}/v1"
    assert provider["models"]["step 3.5/q4"]["limit"] == {"context": 65536, "output": 16384}
    assert provider["models"]["step 3.5/q4"]["interleaved"] == {"field": "reasoning_content"}
    assert config["model"] == "stepahead/step 3.5/q4"


def test_aider():
    text = shown("aider", context=1 << 20)
    assert exports(text) == {"OPENAI_API_BASE": f"{ROOT}/v1", "OPENAI_API_KEY": "none"}
    metadata, settings = re.findall(r"END'\n(.*?)\nEND", text, re.DOTALL)
    assert settings.startswith('- name: "openai/step 3.5/q4"\n')
    assert "  use_temperature: false" in settings  # it would send 0, which makes models that think repeat themselves
    metadata = json.loads(metadata)
    assert metadata["openai/step 3.5/q4"]["max_input_tokens"] == 1 << 20
    assert metadata["openai/step 3.5/q4"]["max_output_tokens"] == 32000
    assert shlex.split(text.splitlines()[-1]) == ["aider", "--model", "openai/step 3.5/q4"]


def test_open_webui():
    variables = exports(shown("open-webui"))
    assert variables["OPENAI_API_BASE_URL"] == f"{ROOT}/v1"
    assert variables["ENABLE_TITLE_GENERATION"] == "False"


def test_continue_and_cline_have_the_address_the_model_and_the_context():
    for client in ("continue", "cline"):
        text = shown(client)
        assert f"{ROOT}/v1" in text
        assert "step 3.5/q4" in text
        assert "65536" in text


def test_cline_in_a_shell():
    line = next(line for line in shown("cline").splitlines() if line.startswith("cline auth"))
    words = shlex.split(line)
    assert words[words.index("-m") + 1] == "step 3.5/q4"
    assert words[words.index("-k") + 1] == "none"
    assert words[words.index("-b") + 1] == f"{ROOT}/v1"


def test_an_unknown_client_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="claude-code, codex, opencode"):
        print_config("emacs", ROOT, "m", 1, False)


# --- stepahead serve --print-config ---
def test_serve_prints_the_settings_of_the_server_that_it_would_be(cli, model_path, monkeypatch):
    monkeypatch.delenv("STEPAHEAD_API_KEYS", raising=False)
    path = model_path("f32")
    printed = cli("serve", path, "--print-config", "codex", "--port", 9000, "--context-length", 100)
    assert printed.code == 0, printed.err
    config = tomllib.loads(printed.out)
    assert config["model"] == path.name.removesuffix(".gguf")
    assert config["model_context_window"] == 100
    assert config["model_providers"]["stepahead"]["base_url"] == "http://127.0.0.1:9000/v1"
    assert "env_key" not in config["model_providers"]["stepahead"]


def test_serve_prints_for_other_hosts_names_and_keys(cli, monkeypatch):
    monkeypatch.setenv("STEPAHEAD_API_KEYS", "secret")
    printed = cli("serve", "--print-config", "claude-code", "--host", "0.0.0.0", "--alias", "a name")
    variables = exports(printed.out)
    assert variables["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8080"
    assert variables["ANTHROPIC_MODEL"] == "a name"
    assert "secret" not in printed.out
    assert "[::1]:8080" in cli("serve", "--print-config", "cline", "--host", "::1").out


@pytest.mark.parametrize("flags", [("--print-config", "emacs"), ("--print-config", "codex", "--port", 0)])
def test_serve_refuses_what_it_cannot_print(cli, flags):
    refused = cli("serve", *flags)
    assert refused.code == 2
    assert refused.err.count("\n") == 1
