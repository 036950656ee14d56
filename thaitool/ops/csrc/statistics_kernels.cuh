// Statistics of the vectors on CUDA: inverse norms, and what centring takes from dot products. No torch
// and no launches, only what to launch. The same for the CPU: dtw.cpp and rows.h.
#pragma once

#include "device.cuh"

namespace thaitool::cuda {

constexpr int kRowsPerBlock = 8;  // of the statistics, a warp each

template <typename T>
struct StatisticsProblem {
  const T* vectors;  // [N, R, D]
  int64_t batch_stride, row_stride;
  const Accumulate<T>*own_mean, *other_mean;  // [D], both or none
  const int64_t* lengths;
  int64_t batch, rows, width;
  bool centre_shift;
  double *inverse_norms, *shift;  // [N, R]; shift is null without means
};

// One warp per row. Sums are double: they cost less than reading the row, and a norm may be anything
// that the type holds.
template <typename T, int kPack>
__global__ void __launch_bounds__(kRowsPerBlock * kWarp)
    statistics_kernel(const StatisticsProblem<T> problem) {
  using A = Accumulate<T>;
  const int lane = threadIdx.x % kWarp;
  const int64_t at = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp;
  if (at >= problem.batch * problem.rows) {
    return;
  }
  const int64_t n = at / problem.rows, r = at % problem.rows, valid = problem.lengths[n];
  THAITOOL_ASSERT(valid >= 0 && valid <= problem.rows, "dtw: a length is out of range");
  double square = 0.0, shift = 0.0;
  if (r < valid) {
    const T* row = problem.vectors + n * problem.batch_stride + r * problem.row_stride;
#pragma unroll 4
    for (int64_t d = int64_t{lane} * kPack; d < problem.width; d += kWarp * kPack) {
      const auto pack = read_pack<T, kPack>(row + d);
      Pack<A, kPack> own{}, other{};
      if (problem.own_mean != nullptr) {
        own = read_pack<A, kPack>(problem.own_mean + d);
        other = read_pack<A, kPack>(problem.other_mean + d);
      }
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        const double value = static_cast<double>(widen(pack.values[e]));
        const double centred = value - static_cast<double>(own.values[e]);
        square = fma(centred, centred, square);
        shift = fma(
            static_cast<double>(other.values[e]), problem.centre_shift ? centred : value, shift);
      }
    }
  }
  const double norm = sqrt(warp_sum(square));
  shift = warp_sum(shift);
  if (lane == 0) {
    problem.inverse_norms[at] = norm == 0.0 ? 0.0 : norm < kInfinity ? 1.0 / norm : kNaN;
    if (problem.shift != nullptr) {
      problem.shift[at] = shift;
    }
  }
}

template <typename T, typename Launch>
void launch_statistics(const StatisticsProblem<T>& problem, bool aligned, const Launch& launch) {
  const Geometry geometry{
      divide_up(problem.batch * problem.rows, kRowsPerBlock), kRowsPerBlock * kWarp, 0};
  if (aligned) {
    launch(statistics_kernel<T, kFullPack<T>>, geometry, problem);
  } else {
    launch(statistics_kernel<T, 1>, geometry, problem);
  }
}

}  // namespace thaitool::cuda
