#!/bin/sh
# Builds the native code with ASan and UBSan, then runs the native tests and the kernel tests of the CPU backend on it.
# Needs g++ (or a clang that finds its runtime by the same names), cmake, ninja, and a `python` with nanobind, numpy
# and pytest. Arguments go to pytest.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${STEPAHEAD_SANITIZE_BUILD:-$root/build/sanitize}
python=$(command -v "${PYTHON:-python}")

# A package of its own beside the tree: the sanitized extension must never be what the next ordinary run picks up.
package=$build/package
rm -rf "$package"
mkdir -p "$package"
cp -r "$root/src/stepahead" "$package/stepahead"
rm -f "$package"/stepahead/_native*.so

cmake -G Ninja -S "$root" -B "$build" -DSTEPAHEAD_SANITIZE=ON -DSTEPAHEAD_TESTS=ON -DSTEPAHEAD_WERROR=ON \
  -DPython_EXECUTABLE="$python" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$package/stepahead" >/dev/null
rm -f "$build"/native/_native*.so
cmake --build "$build"

export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
"$build/native/native_tests"
"$build/native/native_kernel_tests"

# Python itself is not sanitized, so the runtimes come first in the process; its own leaks are not ours to report.
cxx=${CXX:-g++}
export LD_PRELOAD="$("$cxx" -print-file-name=libasan.so) $("$cxx" -print-file-name=libubsan.so)"
# A bus error is told by our own handler, and otherwise as without a sanitizer.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:handle_sigbus=0
export PYTHONPATH="$package" PYTHONDONTWRITEBYTECODE=1 PYTHONMALLOC=malloc
exec "$python" -m pytest -p no:cacheprovider "$root/tests/backends/cpu" "$@"
