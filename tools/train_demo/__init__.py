"""How the demo model was made; see README.md.

Threads that wait must sleep, not spin: on a machine with other work, spinning cost a factor of six.
Set before torch loads its OpenMP.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
