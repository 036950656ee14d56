// What the CUDA kernels share: types, packs of 16 bytes, sums over a warp, and checks on the device.
// No kernels. The same text is compiled by a C++ compiler for the tests (tests/ops/emulation), which
// then brings its own threads, barriers and shared memory.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#if defined(THAITOOL_EMULATED)
#include "cuda_emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// glibc declares it only where assertions are on.
extern "C" __host__ __device__ void __assert_fail(
    const char* assertion, const char* file, unsigned int line, const char* function) noexcept
    __attribute__((__noreturn__));

#define THAITOOL_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
// Like torch's own index kernels: the sentence is printed and the context is lost, which is better
// than reading out of bounds. Not `assert`, which Python's compiler flags switch off.
#define THAITOOL_ASSERT(condition, sentence)                    \
  do {                                                          \
    if (!(condition)) {                                         \
      __assert_fail(sentence, __FILE__, __LINE__, "thaitool");  \
    }                                                           \
  } while (false)
#endif

namespace thaitool::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Sums are made of double for double and of float for the rest.
template <typename T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ inline float widen(float value) { return value; }
__device__ inline double widen(double value) { return value; }
__device__ inline float widen(__half value) { return __half2float(value); }
__device__ inline float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ inline T narrow(Accumulate<T> value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

// Neighbouring numbers that one instruction reads, 16 bytes at most.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Pack {
  T values[kCount];
};

template <typename T, int kCount>
__device__ inline Pack<T, kCount> read_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}

template <typename T>
constexpr int kFullPack = 16 / sizeof(T);

// The same bits in every lane, always added in the same order.
template <typename A>
__device__ inline A warp_sum(A value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

// How many blocks of how many threads, and their dynamic shared memory.
struct Geometry {
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
};

inline int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

}  // namespace thaitool::cuda
