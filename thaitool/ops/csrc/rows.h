// Loops over the D numbers of a vector, for the CPU kernels: statistics of a row, and its gradient.
// No torch tensors, no threads. Compiled for several instruction sets and chosen when loaded; every
// sum runs in a fixed number of lanes and without contraction, so all of them give the same bits.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#if defined(__x86_64__) && defined(__GNUC__) && defined(__ELF__)
#define THAITOOL_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define THAITOOL_CLONES
#endif

namespace thaitool {

constexpr int64_t kLanes = 16;

template <typename A>
inline A total(const std::array<A, kLanes>& lanes) {
  std::array<A, kLanes> sums = lanes;
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) {
      sums[lane] += sums[lane + half];
    }
  }
  return sums[0];
}

// Narrowing goes through float: a double is rounded twice, as torch does it.
template <typename T, typename A>
inline T narrow_to(A value) {
  if constexpr (std::is_same_v<T, double>) {
    return static_cast<double>(value);
  } else {
    return static_cast<T>(static_cast<float>(value));
  }
}

struct RowStatistics {
  double squared_norm;
  double shift;
};

// |v|^2 in double.
template <typename T>
THAITOOL_CLONES double squared_norm(const T* row, int64_t width) {
  std::array<double, kLanes> lanes{};
  int64_t d = 0;
  for (; d + kLanes <= width; d += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = static_cast<double>(row[d + lane]);
      lanes[lane] += value * value;
    }
  }
  for (int64_t lane = 0; d < width; ++d, ++lane) {
    const double value = static_cast<double>(row[d]);
    lanes[lane] += value * value;
  }
  return total(lanes);
}

// |v - own|^2, and other . (v - own) or other . v, in double.
template <typename T, typename A>
THAITOOL_CLONES RowStatistics centred_statistics(
    const T* row, const A* own, const A* other, bool centre_shift, int64_t width) {
  std::array<double, kLanes> squares{}, shifts{};
  const double kept = centre_shift ? 1.0 : 0.0;
  int64_t d = 0;
  for (; d + kLanes <= width; d += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = static_cast<double>(row[d + lane]);
      const double mean = static_cast<double>(own[d + lane]);
      const double centred = value - mean;
      squares[lane] += centred * centred;
      shifts[lane] += static_cast<double>(other[d + lane]) * (value - kept * mean);
    }
  }
  for (int64_t lane = 0; d < width; ++d, ++lane) {
    const double value = static_cast<double>(row[d]);
    const double mean = static_cast<double>(own[d]);
    squares[lane] += (value - mean) * (value - mean);
    shifts[lane] += static_cast<double>(other[d]) * (value - kept * mean);
  }
  return {total(squares), total(shifts)};
}

// sum (+)= weight * (row - mean); `mean` may be null.
template <typename A, typename T>
THAITOOL_CLONES void add_scaled(
    A* sum, const T* row, const A* mean, A weight, bool first, int64_t width) {
  if (mean == nullptr && first) {
    for (int64_t d = 0; d < width; ++d) {
      sum[d] = weight * static_cast<A>(row[d]);
    }
  } else if (mean == nullptr) {
    for (int64_t d = 0; d < width; ++d) {
      sum[d] += weight * static_cast<A>(row[d]);
    }
  } else if (first) {
    for (int64_t d = 0; d < width; ++d) {
      sum[d] = weight * (static_cast<A>(row[d]) - mean[d]);
    }
  } else {
    for (int64_t d = 0; d < width; ++d) {
      sum[d] += weight * (static_cast<A>(row[d]) - mean[d]);
    }
  }
}

// sum . (row - mean); `mean` may be null.
template <typename A, typename T>
THAITOOL_CLONES A dot_centred(const A* sum, const T* row, const A* mean, int64_t width) {
  std::array<A, kLanes> lanes{};
  int64_t d = 0;
  if (mean == nullptr) {
    for (; d + kLanes <= width; d += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        lanes[lane] += sum[d + lane] * static_cast<A>(row[d + lane]);
      }
    }
  } else {
    for (; d + kLanes <= width; d += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        lanes[lane] += sum[d + lane] * (static_cast<A>(row[d + lane]) - mean[d + lane]);
      }
    }
  }
  for (int64_t lane = 0; d < width; ++d, ++lane) {
    const A value = static_cast<A>(row[d]);
    lanes[lane] += sum[d] * (mean == nullptr ? value : value - mean[d]);
  }
  return total(lanes);
}

// out = -inverse * (sum - radial * (row - mean)), added to `mean_sum` too. `mean`, `out` and
// `mean_sum` may be null.
template <typename A, typename T>
THAITOOL_CLONES void write_gradient(
    const A* sum, const T* row, const A* mean, A inverse, A radial, T* out, double* mean_sum,
    int64_t width) {
  if (mean == nullptr && mean_sum == nullptr) {
    for (int64_t d = 0; d < width; ++d) {
      out[d] = narrow_to<T>(-inverse * (sum[d] - radial * static_cast<A>(row[d])));
    }
    return;
  }
  for (int64_t d = 0; d < width; ++d) {
    const A centred = static_cast<A>(row[d]) - (mean == nullptr ? A(0) : mean[d]);
    const A gradient = -inverse * (sum[d] - radial * centred);
    if (out != nullptr) {
      out[d] = narrow_to<T>(gradient);
    }
    if (mean_sum != nullptr) {
      mean_sum[d] += static_cast<double>(gradient);
    }
  }
}

}  // namespace thaitool
