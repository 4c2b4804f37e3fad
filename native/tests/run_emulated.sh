#!/bin/sh
# Cross-compiles the native code for 64-bit ARM and runs the kernel tests under QEMU: on a core of ARMv8.0, without
# dot products, and on one that has everything. Needs cmake and, on Debian, g++-aarch64-linux-gnu and qemu-user.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${STEPAHEAD_EMULATE_BUILD:-$root/build/aarch64}

cmake -S "$root" -B "$build" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER="${CXX_AARCH64:-aarch64-linux-gnu-g++}" -DCMAKE_EXE_LINKER_FLAGS=-static \
  -DSTEPAHEAD_EXTENSION=OFF -DSTEPAHEAD_TESTS=ON -DSTEPAHEAD_WERROR=ON >/dev/null
cmake --build "$build" --parallel 2

qemu-aarch64 -cpu cortex-a53 "$build/native/native_kernel_tests" neon
qemu-aarch64 -cpu max "$build/native/native_kernel_tests" neon_dotprod neon
