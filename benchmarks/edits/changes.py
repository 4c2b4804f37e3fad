"""Edits of Python files, made from their syntax trees: a renamed argument, an added one, an inserted guard.

Everything that is not edited stays as it was, byte for byte, as in the files that people edit. Must not know: models,
or what the edits are for.
"""

import ast
import io
import keyword
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Function = ast.FunctionDef
GUARDED = 3  # functions that get a guard


@dataclass(frozen=True, slots=True)
class Edit:
    """What was asked for, and the file after it."""

    kind: str
    instruction: str
    edited: str


def excerpts(source: str, most: int, least: int) -> Iterator[str]:
    """Beginnings of a file that end where a function, a class or another statement of its top level ends.

    The longest first, of `most` characters down to `least`.
    """
    lines = source.splitlines(keepends=True)
    for node in reversed(ast.parse(source).body):
        text = "".join(lines[: node.end_lineno])
        if least <= len(text) <= most and text.endswith("\n"):
            yield text


def make_edits(source: str) -> list[Edit]:
    """One of each kind; a kind for which the file has no place is left out."""
    makers: tuple[Callable[[str], Edit | None], ...] = (rename, add_argument, insert_guards)
    return [edit for make in makers if (edit := make(source)) is not None]


def rename(source: str) -> Edit | None:
    """The argument that stands in the most places gets another name."""
    arguments = {argument.arg for function in _functions(source) for argument in _plain_arguments(function)}
    names = Counter(token.string for token in _own_names(source) if token.string in arguments and len(token.string) > 2)
    if not names:
        return None
    old = max(sorted(names), key=lambda name: names[name])
    new = f"given_{old}"
    lines = source.splitlines(keepends=True)
    for token in reversed([token for token in _own_names(source) if token.string == old]):
        row, column = token.start
        line = lines[row - 1]
        lines[row - 1] = line[:column] + new + line[column + len(old) :]
    return _checked(Edit("rename", f"Rename {old} to {new}.", "".join(lines)))


def add_argument(source: str) -> Edit | None:
    """The longest function gets an argument, and a use for it."""
    functions = [function for function in _functions(source) if _is_simple(function)]
    if not functions:
        return None
    chosen = max(functions, key=lambda function: (function.end_lineno or 0) - function.lineno)
    lines = source.splitlines(keepends=True)
    indent = _body_indent(chosen)
    use = f'{indent}if verbose:\n{indent}    print("{chosen.name} was called")\n'
    lines.insert(_first_line(chosen) - 1, use)
    end = max((*chosen.args.args, *chosen.args.defaults), key=lambda node: (node.end_lineno or 0, node.end_col_offset))
    row, column = (end.end_lineno or 0) - 1, end.end_col_offset or 0
    head, tail = _split(lines[row], column)
    lines[row] = f"{head}, verbose=False{tail}"
    instruction = f"Give {chosen.name} an argument verbose; if it is set, print that the function was called."
    return _checked(Edit("argument", instruction, "".join(lines)))


def insert_guards(source: str) -> Edit | None:
    """The first functions refuse None for their first argument."""
    functions = [function for function in _functions(source) if _plain_arguments(function)][:GUARDED]
    if not functions:
        return None
    lines = source.splitlines(keepends=True)
    for function in sorted(functions, key=_first_line, reverse=True):
        name, indent = _plain_arguments(function)[0].arg, _body_indent(function)
        guard = f'{indent}if {name} is None:\n{indent}    raise ValueError("{name} must not be None")\n'
        lines.insert(_first_line(function) - 1, guard)
    names = ", ".join(function.name for function in functions)
    return _checked(Edit("guard", f"Raise ValueError in {names} if the first argument is None.", "".join(lines)))


def _functions(source: str) -> list[Function]:
    """In the order of the file; those on one line have no room for an edit."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, Function)]
    return sorted((node for node in found if node.body[0].lineno > node.lineno), key=lambda node: node.lineno)


def _plain_arguments(function: Function) -> list[ast.arg]:
    return [argument for argument in function.args.args if argument.arg not in ("self", "cls")]


def _is_simple(function: Function) -> bool:
    """An argument can be put at the end of its list."""
    rest = function.args
    return bool(rest.args) and not (rest.vararg or rest.kwonlyargs or rest.kwarg or _has_annotated_end(function))


def _has_annotated_end(function: Function) -> bool:
    return function.args.args[-1].annotation is not None


def _first_line(function: Function) -> int:
    """Of the body, after a docstring."""
    first = function.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return (first.end_lineno or 0) + 1 if is_docstring else first.lineno


def _body_indent(function: Function) -> str:
    return " " * function.body[0].col_offset


def _split(line: str, column: int) -> tuple[str, str]:
    """Columns of syntax trees count bytes."""
    data = line.encode()
    return data[:column].decode(), data[column:].decode()


def _own_names(source: str) -> Iterator[tokenize.TokenInfo]:
    """Names that are no attributes and no keywords of the language."""
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and before != "." and not keyword.iskeyword(token.string):
            yield token
        before = token.string


def _checked(edit: Edit) -> Edit:
    ast.parse(edit.edited)
    return edit
