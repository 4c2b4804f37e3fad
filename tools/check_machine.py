"""Says in one line what a machine lacks to build stepahead, before anything else can say it in fifty.

Must run on any Python 3 there is: nothing newer than 3.6 in this file.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

OLDEST = (3, 11)
COMPILERS = ("c++", "g++", "clang++")


def missing(version, has_module, has_headers, has_compiler):
    """What is missing, as a sentence that names the way out; None if nothing is."""
    name = ".".join(map(str, version[:2]))
    if tuple(version[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return f"this is Python {name}, older than {oldest}: install one and name it: make PYTHON=python3.12 run"
    for module in ("venv", "ensurepip"):
        if not has_module(module):
            return f"this Python has no module {module}: on Debian and Ubuntu, apt install python{name}-venv"
    if not has_headers:
        return f"this Python has no C headers: on Debian and Ubuntu, apt install python{name}-dev"
    if not has_compiler:
        return f"no C++ compiler ({', '.join(COMPILERS)}): on Debian and Ubuntu, apt install g++"
    return None


def main():
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    compilers = [os.environ.get("CXX", ""), *COMPILERS]
    fault = missing(
        sys.version_info,
        lambda module: importlib.util.find_spec(module) is not None,
        header.exists(),
        any(compiler and shutil.which(compiler.split()[0]) for compiler in compilers),
    )
    if fault is not None:
        sys.stderr.write(f"stepahead: {fault}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
