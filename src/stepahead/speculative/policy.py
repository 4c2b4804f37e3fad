"""How many tokens to draft. Mechanism lives in the proposers; they draft as deep as they are told here.

Until drafts are priced against the measured cost of verifying them, `auto` means one draft token: the depth that
loses least where drafting does not pay.
"""

from stepahead.engine.params import Speculation
from stepahead.errors import RequestError
from stepahead.models.model import DraftSpec

AUTO_DEPTH = 1
MAX_COPY = 15  # with the row before it a draft of this length is 16 rows: what the kernels run in one go


def resolve_depth(speculation: Speculation, draft: DraftSpec | None) -> int:
    """The most draft tokens a step for one request, 0: none. Raises RequestError for what the model cannot do."""
    if speculation.mode == "off":
        return 0
    if speculation.mode == "copy":
        return _copy_depth(speculation.depth)
    if draft is None or draft.num_heads == 0:
        if speculation.mode == "mtp":
            raise RequestError('mode="mtp" needs MTP heads, and this model file has none: give "auto" or "off"')
        return 0
    if speculation.depth is None:
        return AUTO_DEPTH if speculation.mode == "auto" else draft.num_heads
    if speculation.depth > draft.max_depth:
        heads = "one MTP head, used again for each draft token," if draft.is_recurrent else _heads(draft.num_heads)
        raise RequestError(
            f"depth={speculation.depth} is out of range: this model has {heads} and allows 1 to {draft.max_depth}, "
            "or 0 for none"
        )
    return speculation.depth


def _copy_depth(depth: int | None) -> int:
    if depth is None:
        return MAX_COPY
    if depth > MAX_COPY:
        raise RequestError(
            f"depth={depth} is out of range: copies may have 1 to {MAX_COPY} tokens a step, or 0 for none"
        )
    return depth


def _heads(num_heads: int) -> str:
    return "one MTP head" if num_heads == 1 else f"{num_heads} MTP heads"
