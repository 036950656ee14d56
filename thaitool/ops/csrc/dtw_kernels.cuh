// The path kernel of hard DTW on CUDA: one block fills the steps of a pair, one warp walks back, all
// threads sum. No torch and no launches, only what to launch. The wavefront is in dtw_wavefront.cuh.
#pragma once

#include "device.cuh"
#include "dtw_cell.h"
#include "dtw_wavefront.cuh"

namespace thaitool::cuda {

// Steps of 32 frames by 32 tokens, a token per lane.
struct Tile {
  int64_t block, first;  // frames 32 * block .., tokens first ..
  uint32_t frame, token, drop;
};

template <typename T, bool kDrop>
__device__ Tile read_tile(const PairView<T>& pair, int64_t block, int64_t last_token, int lane) {
  constexpr int kPlanes = kDrop ? 3 : 2;
  Tile tile{block, last_token - (kWarp - 1), 0, 0, 0};
  const int64_t j = tile.first + lane;
  if (j >= 0) {
    const uint32_t* words = pair.bits + (block * pair.grid.tokens + j) * kPlanes;
    tile.frame = words[0];
    tile.token = words[1];
    tile.drop = kDrop ? words[kPlanes - 1] : 0;
  }
  return tile;
}

// Finds the frames that the path has in each token, from the last token to the first. One warp, all
// lanes alike. A path runs up a column as long as it steps by frame or drops frames, so each column
// costs one look for a zero bit; what step_back() forces at the borders is forced here.
template <typename T, bool kDrop>
__device__ void walk_back(const PairView<T>& pair, int lane) {
  int64_t last = pair.grid.frames - 1;
  bool entered = false;  // by a token step: the frame has matched a later token, it is not dropped
  Tile tile = read_tile<T, kDrop>(pair, last / 32, pair.grid.tokens - 1, lane);
  for (int64_t j = pair.grid.tokens - 1; j >= 0; --j) {
    int64_t first = 0;
    bool by_token = true;
    if (last > 0 && (kDrop || j > 0)) {
      for (int64_t block = last / 32;; --block) {
        if (tile.block != block || j < tile.first) {
          tile = read_tile<T, kDrop>(pair, block, j, lane);
        }
        const int source = static_cast<int>(j - tile.first);
        uint32_t up = __shfl_sync(kAllLanes, tile.frame, source);
        const uint32_t here = 1u << (last % 32);
        const bool lowest = block == last / 32;
        if (kDrop) {
          const uint32_t drop = __shfl_sync(kAllLanes, tile.drop, source);
          up |= entered && lowest ? drop & ~here : drop;
        }
        uint32_t ends = ~up & (lowest ? (here << 1) - 1 : kAllLanes);
        ends |= block == 0 ? 1u : 0u;
        const uint32_t token = __shfl_sync(kAllLanes, tile.token, source);
        if (ends != 0) {
          const int bit = 31 - __clz(static_cast<int>(ends));
          first = block * 32 + bit;
          by_token = first == 0 || (token >> bit & 1) != 0;
          break;
        }
      }
    }
    if (lane == 0) {
      pair.spans[j] = Span{static_cast<int32_t>(first), static_cast<int32_t>(last)};
    }
    entered = by_token;
    last = by_token ? first : first - 1;
  }
}

// Smallest token whose span ends at frame i or later; smallest whose span starts after frame i.
__device__ inline int64_t first_token_of(const Span* spans, int64_t tokens, int64_t i) {
  int64_t low = 0, high = tokens;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (spans[middle].last < i) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

__device__ inline int64_t end_token_of(const Span* spans, int64_t tokens, int64_t i) {
  int64_t low = 0, high = tokens;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (spans[middle].first <= i) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Writes the interval of frame i; returns what its first match adds, or the price of dropping it.
template <typename T, bool kDrop>
__device__ double finish_frame(const PairView<T>& pair, int64_t i) {
  const int64_t begin = first_token_of(pair.spans, pair.grid.tokens, i);
  const int64_t end = end_token_of(pair.spans, pair.grid.tokens, i);
  bool dropped = false;
  if constexpr (kDrop) {
    // Frames before the first match have end 0; a frame with two tokens is matched.
    dropped = end == 0;
    if (i > 0 && end - begin == 1) {
      dropped = (pair.bits[(i / 32 * pair.grid.tokens + begin) * 3 + 2] >> (i % 32) & 1) != 0;
    }
  }
  pair.intervals[i] =
      Span{static_cast<int32_t>(begin), static_cast<int32_t>(dropped ? begin : end)};
  return dropped ? pair.price(i) : pair.weighted_cost(i, begin);
}

// Writes intervals, length and cost. A path has one term per frame, and one more per token step. The
// order of the sum depends on the pair alone, not on the size of the block.
template <typename T, bool kDrop>
__device__ void finish(
    const PairView<T>& pair, unsigned char* shared, int32_t* path_length, double* path_cost) {
  double* costs = reinterpret_cast<double*>(shared);
  int32_t* counts = reinterpret_cast<int32_t*>(shared + kSlots * sizeof(double));
  const int64_t frames = pair.grid.frames, terms = frames + pair.grid.tokens - 1;
  for (int slot = threadIdx.x; slot < kSlots; slot += blockDim.x) {
    double cost = 0.0;
    int32_t count = 0;
    for (int64_t term = slot; term < terms; term += kSlots) {
      if (term < frames) {
        cost += finish_frame<T, kDrop>(pair, term);
        ++count;
      } else {
        const int64_t j = term - frames + 1;
        const int64_t i = pair.spans[j].first;
        if (pair.spans[j - 1].last == i) {  // entered by a token step
          cost += pair.weighted_cost(i, j);
          ++count;
        }
      }
    }
    costs[slot] = cost;
    counts[slot] = count;
  }
  for (int half = kSlots / 2; half > 0; half /= 2) {
    __syncthreads();
    for (int slot = threadIdx.x; slot < half; slot += blockDim.x) {
      costs[slot] += costs[slot + half];
      counts[slot] += counts[slot + half];
    }
  }
  if (threadIdx.x == 0) {
    *path_cost = costs[0];
    *path_length = counts[0];
  }
}

template <typename T>
__device__ PairView<T> view_pair(
    const PathProblem<T>& problem, int64_t at, int64_t n, int64_t c, int64_t m,
    unsigned char* shared) {
  const int64_t b = at / problem.places, k = at % problem.places;
  const int64_t frame = b * problem.frames, token = c * problem.tokens;
  const bool centred = problem.frame_shift != nullptr;
  const PathPlan& plan = problem.plan;
  return PairView<T>{
      problem.dots + b * problem.speech_stride + k * problem.place_stride,
      problem.frame_stride,
      problem.inverse_frame + frame,
      problem.inverse_token + token,
      centred ? problem.frame_shift + frame : nullptr,
      centred ? problem.token_shift + token : nullptr,
      problem.drop_cost == nullptr ? nullptr : problem.drop_cost + frame,
      problem.token_weights == nullptr ? nullptr : problem.token_weights + token,
      make_grid(n, m, problem.band, problem.prior, problem.monotonic),
      plan.bits_in_shared
          ? reinterpret_cast<uint32_t*>(shared + plan.warps * plan.warp_bytes)
          : problem.bits + at * plan.bit_words,
      problem.boundary == nullptr ? nullptr : problem.boundary + 2 * at * problem.frames,
      problem.spans + at * problem.tokens,
      problem.intervals + at * problem.frames};
}

template <typename T, int C, bool kDrop, bool kConstrained>
__global__ void __launch_bounds__(kMaxWarps * kWarp, 1) path_kernel(const PathProblem<T> problem) {
  THAITOOL_SHARED(shared);
  const int64_t at = blockIdx.x, b = at / problem.places;
  const int64_t c = problem.text_index == nullptr ? b : problem.text_index[at];
  THAITOOL_ASSERT(c >= 0 && c < problem.texts, "dtw: text_index is out of range");
  const int64_t n = problem.speech_lengths[b], m = problem.text_lengths[c];
  THAITOOL_ASSERT(n >= 0 && n <= problem.frames, "dtw: a speech length is out of range");
  THAITOOL_ASSERT(m >= 0 && m <= problem.tokens, "dtw: a text length is out of range");
  THAITOOL_ASSERT(
      !problem.monotonic || n == 0 || m <= n, "dtw: monotonic needs at least as many frames as tokens");
  Span* intervals = problem.intervals + at * problem.frames;
  for (int64_t i = (m == 0 ? 0 : n) + threadIdx.x; i < problem.frames; i += blockDim.x) {
    intervals[i] = Span{0, 0};
  }
  if (n == 0 || m == 0) {
    if (threadIdx.x == 0) {
      problem.path_length[at] = 0;
      problem.path_cost[at] = 0.0;
    }
    return;
  }
  const PairView<T> pair = view_pair(problem, at, n, c, m, shared);
  fill_steps<T, C, kDrop, kConstrained>(pair, shared, problem.plan);
  __syncthreads();
  if (threadIdx.x < kWarp) {
    walk_back<T, kDrop>(pair, threadIdx.x);
  }
  __syncthreads();
  finish<T, kDrop>(pair, shared, problem.path_length + at, problem.path_cost + at);
}

// Calls launch(kernel, geometry, problem) with the kernel that fits.
template <typename T, int C, typename Launch>
void launch_path_of_width(const PathProblem<T>& problem, const Launch& launch) {
  const bool constrained = problem.band < 1.0 || problem.prior != 0.0 || problem.monotonic;
  const Geometry geometry = problem.plan.geometry(problem.pairs);
  if (problem.drop_cost != nullptr) {
    // Drop costs are rare enough to share one kernel with all constraints.
    launch(path_kernel<T, C, true, true>, geometry, problem);
  } else if (constrained) {
    launch(path_kernel<T, C, false, true>, geometry, problem);
  } else {
    launch(path_kernel<T, C, false, false>, geometry, problem);
  }
}

template <typename T, typename Launch>
void launch_path(const PathProblem<T>& problem, const Launch& launch) {
  if (problem.plan.columns_per_lane == 1) {
    launch_path_of_width<T, 1>(problem, launch);
  } else {
    launch_path_of_width<T, 2>(problem, launch);
  }
}

}  // namespace thaitool::cuda
