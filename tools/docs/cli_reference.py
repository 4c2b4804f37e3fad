"""Writes docs/reference/cli.md from the commands themselves. `make docs` runs it; a test checks that it was run.

python tools/docs/cli_reference.py
"""

import inspect
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType

import typer

from stepahead.cli.app import COMMANDS, _root

TARGET = Path(__file__).resolve().parents[2] / "docs" / "reference" / "cli.md"

HEAD = """# Command line

<!-- Made by tools/docs/cli_reference.py from the commands: edit those, then run `make docs`. -->

No MODEL means the embedded demo model. Answers go to stdout, everything about them to stderr.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | it could not be done: a damaged or unsupported file, no room, a fault of ours |
| 2 | the caller's mistake: a flag, a setting, the request, a missing file |
| 130 | Ctrl-C |
| 141 | the reader of the output went away |

An error is one line on stderr, also with `--json`; it names the value, the limit and the way out.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, _prose(inspect.getdoc(_root)), *map(_section, COMMANDS)])


def _section(command) -> str:
    return "\n".join([f"\n## stepahead {command.__name__}\n", _prose(inspect.getdoc(command)), *_table(command)])


def _prose(text: str) -> str:
    """Help text as Markdown: paragraphs, and the examples after a backspace mark as a code block."""
    blocks = []
    for block in textwrap.dedent(text).strip().split("\n\n"):
        lines = block.strip("\n").splitlines()
        if "\b" in block:
            examples = textwrap.dedent("\n".join(lines[2:]))
            blocks.append(f"```\n{examples}\n```")
        else:
            blocks.append(" ".join(line.strip() for line in lines))
    return "\n\n".join(blocks) + "\n"


def _table(command) -> Iterator[str]:
    """A row for each parameter, in the order of --help."""
    hints = typing.get_type_hints(command, include_extras=True)
    yield "| option | values | default | |"
    yield "|---|---|---|---|"
    for name, parameter in inspect.signature(command).parameters.items():
        if hints[name] is typer.Context:
            continue
        kind, info = typing.get_args(hints[name])
        # In an annotation, the first flag stands where a default would.
        flags = [flag for flag in (info.default, *(info.param_decls or ())) if isinstance(flag, str)]
        is_needed = parameter.default is inspect.Parameter.empty
        shown = ", ".join(f"`{flag}`" for flag in flags or [info.metavar if is_needed else f"[{info.metavar}]"])
        yield f"| {shown} | {_values(kind)} | {_default(parameter.default)} | {info.help.replace('|', chr(92) + '|')} |"


def _values(kind) -> str:
    """Choices, or the kind of a value; nothing for a flag."""
    if typing.get_origin(kind) in (typing.Union, UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not NoneType)
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    if typing.get_origin(kind) is list:
        return f"{_values(typing.get_args(kind)[0])}, repeatable"
    return {bool: "", int: "integer", float: "number", str: "text", Path: "path"}[kind]


def _default(value) -> str:
    return "" if value in (None, False, inspect.Parameter.empty) else f"`{value}`"


def main() -> None:
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(page(), encoding="utf-8")
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
