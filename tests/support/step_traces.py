"""Records of steps that never ran."""

from typing import Any

from stepahead.engine.trace import StepTrace

PLAIN: dict[str, Any] = {
    "step": 0,
    "request_id": 1,
    "position": 10,
    "num_sequences": 1,
    "num_rows": 1,
    "source": "",
    "depth": 0,
    "num_drafted": 0,
    "probabilities": (),
    "prices": (),
    "throughput": 0.5,
    "predicted_ms": 2.0,
    "actual_ms": 2.0,
    "predicted_draft_ms": 0.0,
    "actual_draft_ms": 0.0,
    "num_accepted": 0,
    "num_catch_up_rows": 0,
    "num_experts": 0,
}


def plain(**changes: Any) -> StepTrace:
    """A step without drafts, but for the changes."""
    return StepTrace(**{**PLAIN, **changes})


def drafted(num_accepted: int, probabilities: tuple[float, ...], depth: int | None = None, **changes: Any) -> StepTrace:
    """A step that verified `depth` of the heads' drafts; all of them without one."""
    depth = len(probabilities) if depth is None else depth
    return plain(
        **{
            "source": "mtp" if depth else "",
            "depth": depth,
            "num_drafted": len(probabilities),
            "num_rows": depth + 1,
            "probabilities": probabilities,
            "prices": (0.25,) * len(probabilities),
            "num_accepted": num_accepted,
            "predicted_draft_ms": 0.5,
            "actual_draft_ms": 0.5,
            **changes,
        }
    )
