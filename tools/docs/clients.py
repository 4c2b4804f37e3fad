"""Puts printed settings and tables of fields into docs/clients.md and docs/serving.md. `make docs` runs it; a test
checks that it was run.

python tools/docs/clients.py
"""

import re
from pathlib import Path

from stepahead.cli.client_configs import CLIENTS, print_config
from stepahead.server.chat_request import CHAT_FIELDS
from stepahead.server.completion_request import COMPLETION_FIELDS
from stepahead.server.fields import FieldTable
from stepahead.server.messages.request import FIELDS as MESSAGES
from stepahead.server.responses.request import FIELDS as RESPONSES

DOCS = Path(__file__).resolve().parents[2] / "docs"
TARGETS = (DOCS / "clients.md", DOCS / "serving.md")
SYNTAX = {"codex": "toml", "opencode": "json", "cline": "text", "continue": "yaml"}
TABLES = {"responses": RESPONSES, "messages": MESSAGES, "chat": CHAT_FIELDS, "completions": COMPLETION_FIELDS}
PLACE = re.compile(r"(<!-- (settings|fields): ([\w-]+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def page(text: str) -> str:
    """The page with all its places filled anew."""
    return PLACE.sub(lambda found: f"{found[1]}{_filled(found[2], found[3])}{found[4]}", text)


def _filled(kind: str, name: str) -> str:
    if kind == "settings":
        assert name in CLIENTS
        shown = print_config(name, "http://127.0.0.1:8080", "step-3.5-flash", 65536, has_key=False)
        return f"\n```{SYNTAX.get(name, 'sh')}\n{shown}```\n\n"
    return _table(TABLES[name])


def _table(fields: FieldTable) -> str:
    rows = [(f"`{name}`", text) for name, text in sorted(fields.honoured.items())]
    rows.append((", ".join(f"`{name}`" for name in sorted(fields.hints)), "accepted, without effect here"))
    rows += [(f"`{name}`", f"refused: {refused.reason}") for name, refused in sorted(fields.refused.items())]
    return "".join(["\n| field | |\n|---|---|\n", *(f"| {name} | {text} |\n" for name, text in rows), "\n"])


def main() -> None:
    for target in TARGETS:
        target.write_text(page(target.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"wrote {target}")


if __name__ == "__main__":
    main()
