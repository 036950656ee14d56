// What the gradient of the DTW loss on CUDA needs beside its rows: the sum of a mean's partial sums, and
// the pairs of each text. No torch and no launches, only what to launch.
#pragma once

#include "device.cuh"

namespace thaitool::cuda {

// Adds the partial sums [parts, D] of blocks up to the gradient of a mean [D], in a fixed order.
template <typename A>
struct MeanProblem {
  const A* partial;
  A* out;
  int64_t parts, width;
};

constexpr int kMeanGroups = 16;

template <typename A>
__global__ void __launch_bounds__(kMeanGroups * kWarp) mean_kernel(const MeanProblem<A> problem) {
  THAITOOL_SHARED(shared);
  double* sums = reinterpret_cast<double*>(shared);
  const int group = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t d = int64_t{blockIdx.x} * kWarp + lane;
  double sum = 0.0;
  if (d < problem.width) {
#pragma unroll 4
    for (int64_t part = group; part < problem.parts; part += kMeanGroups) {
      sum += static_cast<double>(problem.partial[part * problem.width + d]);
    }
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (group == 0 && d < problem.width) {
    for (int other = 1; other < kMeanGroups; ++other) {
      sum += sums[other * kWarp + lane];
    }
    problem.out[d] = static_cast<A>(sum);
  }
}

template <typename A, typename Launch>
void launch_mean(const MeanProblem<A>& problem, const Launch& launch) {
  const int64_t shared = kMeanGroups * kWarp * int64_t{sizeof(double)};
  launch(mean_kernel<A>, Geometry{divide_up(problem.width, kWarp), kMeanGroups * kWarp, shared}, problem);
}

// Lists the pairs of every text in order: first_pair [C + 1] and pairs [B * K].
struct PairsProblem {
  const int64_t* text_index;
  int64_t count, texts;
  int64_t *first_pair, *pairs;
};

// One warp per text; it counts the pairs of smaller texts, then writes its own.
template <typename = void>
__global__ void __launch_bounds__(kWarp) pairs_kernel(const PairsProblem problem) {
  const int64_t c = blockIdx.x;
  const int lane = threadIdx.x;
  int64_t next = 0;
  for (int64_t at = lane; at < problem.count; at += kWarp) {
    const int64_t text = problem.text_index[at];
    THAITOOL_ASSERT(text >= 0 && text < problem.texts, "dtw: text_index is out of range");
    next += text < c ? 1 : 0;
  }
  next = warp_sum(next);
  if (lane == 0) {
    problem.first_pair[c] = next;
    if (c == problem.texts - 1) {
      problem.first_pair[problem.texts] = problem.count;
    }
  }
  for (int64_t base = 0; base < problem.count; base += kWarp) {
    const int64_t at = base + lane;
    const bool mine = at < problem.count && problem.text_index[at] == c;
    const unsigned found = __ballot_sync(kAllLanes, mine);
    if (mine) {
      problem.pairs[next + __popc(found & ((1u << lane) - 1))] = at;
    }
    next += __popc(found);
  }
}

template <typename Launch>
void launch_pairs(const PairsProblem& problem, const Launch& launch) {
  launch(pairs_kernel<>, Geometry{problem.texts, kWarp, 0}, problem);
}

}  // namespace thaitool::cuda
