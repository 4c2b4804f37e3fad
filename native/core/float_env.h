// Bits must not depend on who calls: torch and others set flush-to-zero in their threads. Kernels run with the IEEE
// default (round to nearest even, denormals kept), and the caller gets its own mode back.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

namespace stepahead {

class FloatEnv {
 public:
#if defined(__x86_64__)
  FloatEnv() noexcept : saved_(_mm_getcsr()) {
    if (saved_ != kDefault) _mm_setcsr(kDefault);
  }
  ~FloatEnv() {
    if (saved_ != kDefault) _mm_setcsr(saved_);
  }

 private:
  static constexpr unsigned kDefault = 0x1F80;  // all exceptions masked, no flags, round to nearest, no FTZ, no DAZ
  unsigned saved_;
#else
  FloatEnv() noexcept { std::feholdexcept(&saved_), std::fesetenv(FE_DFL_ENV); }
  ~FloatEnv() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
#endif

 public:
  FloatEnv(const FloatEnv&) = delete;
  FloatEnv& operator=(const FloatEnv&) = delete;
};

}  // namespace stepahead
