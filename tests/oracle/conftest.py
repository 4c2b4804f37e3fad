"""llama.cpp is bound by the benchmarks, which are no package that is installed: found at the root of the checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
