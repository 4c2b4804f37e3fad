"""What is asked of the backend, and the table that says what came of it. Knows records, not how they are made."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """Of several records with its key the worst one counts. limit None: reported, nothing is asked."""

    key: str
    measure: str
    limit: float | None
    limits: tuple[tuple[str, float], ...] = ()  # other ones, by what the name of a device contains
    is_most: bool = False  # the limit is an upper one
    unit: str = ""

    def limit_on(self, device: str) -> float | None:
        return next((limit for name, limit in self.limits if name in device), self.limit)

    def is_met(self, value: float, device: str) -> bool | None:
        limit = self.limit_on(device)
        if limit is None:
            return None
        return value <= limit if self.is_most else value >= limit

    def worst(self, values: Iterable[float]) -> float:
        return max(values) if self.is_most else min(values)

    def asked(self, device: str) -> str:
        limit = self.limit_on(device)
        return "reported" if limit is None else f"{'≤' if self.is_most else '≥'} {limit:g}{self.unit}"


TARGETS = (
    Target("gemv Q4_K", "Q4_K, 64 MB and more, 1 to 4 rows: share of copy bandwidth", 0.75),
    Target("gemv Q6_K", "Q6_K, the same", 0.75),
    Target("gemv Q8_0", "Q8_0, the same", 0.75),
    Target("gemv 4 to 1", "4 rows ÷ 1 row, dense: time", 1.10, is_most=True),
    Target("experts", "experts 288 × 1280 × 4096, top 8, 1 to 4 rows: share of copy bandwidth", 0.65),
    Target("bits", "rows whose bits depend on their neighbours", 0, is_most=True),
    Target("plain", "plain decoding ÷ its byte bound", 0.60, (("H200", 0.55),)),
    Target("cycle", "cycle of the best depth at .80/.60/.45 ÷ its byte bound", 0.65),
    Target("ratio random", "the same: tokens/s ÷ plain, random experts", None, unit="×"),
    Target("ratio bound random", "the byte bound of that", None, unit="×"),
    Target("ratio shared", "the same, a third of the experts shared between neighbours", None, unit="×"),
    Target("ratio bound shared", "the byte bound of that", None, unit="×"),
    Target("speed shared", "tokens/s of 45 layers, a third shared", None, (("H200", 500.0),)),
    Target("host", "host time a cycle that the device does not hide", 0.05, is_most=True),
    Target("prompt", "prompt of 2,048 tokens: share of the bf16 matrix peak", 0.25),
    Target("demo exact", "demo model: same text with drafts and without, ahead of the host and not", 1),
    Target("demo speed", "demo model: tokens/s ÷ the CPU's", 1.0, unit="×"),
)


def table(records: Iterable[Record]) -> str:
    """Markdown: every target, measured or not."""
    records = list(records)
    device = next((record["device"] for record in records if "device" in record), "")
    lines = ["| measure | asked | measured | met |", "| --- | --- | --- | --- |"]
    for target in TARGETS:
        values = [record["value"] for record in records if record.get("target") == target.key]
        if not values:
            lines.append(f"| {target.measure} | {target.asked(device)} | not measured | – |")
            continue
        value = target.worst(values)
        met = {True: "yes", False: "**no**", None: "–"}[target.is_met(value, device)]
        lines.append(f"| {target.measure} | {target.asked(device)} | {value:.4g}{target.unit} | {met} |")
    return "\n".join(lines)


def heading(records: Iterable[Record]) -> str:
    """Device, its clock and its bandwidth, as far as they were measured; and what went wrong."""
    facts: dict[str, Any] = {}
    faults: list[str] = []
    for record in records:
        facts |= {name: record[name] for name in ("device", "clock", "copy_gb_s", "read_gb_s") if name in record}
        if "error" in record:
            faults.append(f"{record['part']} {record['case']}: {record['error']}")
    parts = [str(facts.get("device", "no device"))]
    if "clock" in facts:
        parts.append(f"under load {facts['clock']}")
    if "copy_gb_s" in facts:
        parts.append(f"copies {facts['copy_gb_s']:,.0f} GB/s")
    if "read_gb_s" in facts:
        parts.append(f"reads {facts['read_gb_s']:,.0f} GB/s")
    return "\n".join(["; ".join(parts), *(f"- {fault}" for fault in faults)])
