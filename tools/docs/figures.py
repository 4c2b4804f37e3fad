"""Runs the tool and puts what it shows into the documentation: docs/images/run.svg and the tables in README.md.

    python tools/docs/figures.py [--rounds N]

Uses the installed package and its demo model. Run it on a quiet machine.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "run.svg"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: made by tools/docs/figures.py -->\n", "<!-- /figures -->\n"
SHOWN_POSITIONS = 3
KINDS = ("bench", "--kinds", "code,edit,prose,json")
RUN = ("run", "--depth", "3", "--temperature", "0.7", "--min-p", "0.05", "--seed", "2")


def stepahead(*args: str) -> str:
    done = subprocess.run([sys.executable, "-m", "stepahead.cli", *args], stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout


def table(found: dict[str, Any], command: str) -> str:
    """The measured section, as Markdown."""
    lines = [
        f"`{command}` on {found['machine']}, {found['threads']} threads ({found['isa']}), with stepahead "
        f"{found['version']} and the demo model ({found['model_bytes'] / 1e6:.1f} MB): {found['num_prompts']} prompts "
        f"of code, {found['max_tokens']} tokens each, medians of {found['rounds']} interleaved rounds; logits hash "
        f"`{found['logits_hash']}`.",
        "",
        "| draft tokens a step | tokens/s | to plain | tokens a step | accepted, by position | trunk ms | draft ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        shares = row["acceptance"]
        accepted = " ".join(f"{100 * share:.0f} %" for share in shares[:SHOWN_POSITIONS]) or "–"
        accepted += " …" if len(shares) > SHOWN_POSITIONS else ""
        name = {"plain": "none", "auto": "`auto`"}.get(row["name"], row["name"])
        lines.append(
            f"| {name} | {row['tokens_per_second']:.0f} | {row['ratio_to_plain']:.2f}x | {row['tokens_per_step']:.2f} "
            f"| {accepted} | {row['milliseconds']['forward']:.2f} | {row['milliseconds']['propose']:.2f} |"
        )
    same = "every run gave the same tokens" if all(row["is_same_text"] for row in found["rows"]) else "TEXTS DIFFER"
    lines += [
        "",
        f"Milliseconds are a step's; {same}. Greedy text of so small a model repeats itself, which is easy to draft:",
        "its [card](src/stepahead/demo/MODEL_CARD.md) has acceptance at temperature 0.8, too.",
        "`stepahead bench model.gguf` tells what a real model gains.",
        "",
    ]
    return "\n".join(lines)


def kinds_table(found: dict[str, Any], command: str) -> str:
    """Gains by kind of text: what fixed depths and copies give, and what `auto` makes of it."""
    lines = [
        f"By kind of text, `{command}`, tokens/s to plain (medians of {found['rounds']} rounds; an edit is a recorded "
        "text that is played back, most of which stands in the prompt):",
        "",
        "| | plain, tokens/s | depth 1 | depth 2 | depth 3 | copies alone | `auto` |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, part in found["kinds"].items():
        rows = {row["name"]: row for row in part["rows"]}
        gains = [
            f"{rows[name]['ratio_to_plain']:.2f}x" if name in rows else "–" for name in ("1", "2", "3", "copy", "auto")
        ]
        cells = [kind, f"{rows['plain']['tokens_per_second']:.0f}", *gains[:-1], f"**{gains[-1]}**"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    stepahead(*RUN, "--svg", str(PICTURE))
    bench = ("bench", "--rounds", str(rounds))
    found = json.loads(stepahead(*bench, "--json"))
    kinds = json.loads(stepahead(*KINDS, "--rounds", str(rounds), "--json"))
    tables = [table(found, _command(bench)), kinds_table(kinds, _command((*KINDS, "--rounds", str(rounds))))]
    text = README.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    README.write_text(head + BEGIN + "\n".join(tables) + END + tail, encoding="utf-8")
    print(f"wrote {PICTURE} and {README}")


def _command(args: Sequence[str]) -> str:
    return " ".join(["stepahead", *args])


if __name__ == "__main__":
    main()
