"""`stepahead list`: the models that were pulled, by the names that other commands take."""

import json
import sys
import time

from stepahead.cli import options as o
from stepahead.cli.console import stdout, visible
from stepahead.cli.loading import size
from stepahead.cli.pull import model_object

DAY = 86_400.0


def list(json_output: o.JsonOption = False) -> None:
    """Show the models that were pulled: name, size, heads, and when they were last used.

    \b
    Examples:
      stepahead list
      stepahead list --json
    """
    from stepahead.hub import registry

    models = sorted(registry.all_models(), key=lambda model: model.name)
    if json_output:
        json.dump([model_object(model) for model in models], sys.stdout)
        sys.stdout.write("\n")
        return
    if not models:
        stdout().out("nothing has been pulled yet: stepahead pull REPO", highlight=False)
        return
    from rich.table import Table

    table = Table()
    for title in ("name", "size", "files", "MTP heads", "last used"):
        table.add_column(title, justify="right" if title in ("size", "files") else "left")
    for model in models:
        verdict = model.verdict.partition(";")[0] if model.is_here else f"files are missing: {model.pull_command}"
        used = _ago(time.time() - registry.last_used(model))
        table.add_row(visible(model.name), size(model.nbytes), str(len(model.all_files)), visible(verdict), used)
    stdout().print(table)


def _ago(seconds: float) -> str:
    days = int(max(seconds, 0.0) // DAY)
    return "today" if days == 0 else "yesterday" if days == 1 else f"{days} days ago"
