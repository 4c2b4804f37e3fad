"""MTP heads put into a model file, taken out of it, or moved from one to another: join, split, graft.

Checked before a byte is written. Bytes of tensors are copied as they are, or shared where the file system can.
"""

from stepahead.splice.likeness import Likeness
from stepahead.splice.report import SplicedFile, SpliceReport
from stepahead.splice.splice import graft, join, split

__all__ = ["Likeness", "SpliceReport", "SplicedFile", "graft", "join", "split"]
