// The one exception of the native code; bind/ turns it into stepahead.errors.BackendError. Kernels and tasks of the
// pool are noexcept: it is thrown by checks before any work starts.
#pragma once

#include <stdexcept>
#include <string>

namespace stepahead {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
std::string join(const Parts&... parts) {
  std::string text;
  const auto append = [&text](const auto& part) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(part)>>) {
      text += std::to_string(part);
    } else {
      text += part;
    }
  };
  (append(parts), ...);
  return text;
}

template <class... Parts>
void check(bool ok, const Parts&... parts) {
  if (!ok) throw Error(join(parts...));
}

}  // namespace stepahead
