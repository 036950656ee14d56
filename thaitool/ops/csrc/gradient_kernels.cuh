// Gradient of the DTW loss on CUDA: rows of speech, rows of text, and their means. Sparse, without
// atomics; every element is written once. No torch and no launches, only what to launch. The same for
// the CPU: dtw_gradient.cpp.
#pragma once

#include "device.cuh"

namespace thaitool::cuda {

// A number as a product of two that both fit in A: an inverse norm may be out of float's range
// although what it is multiplied with brings it back.
template <typename A>
struct Scale {
  A power, rest;

  __device__ explicit Scale(double value) : power(1), rest(static_cast<A>(value)) {
    if constexpr (std::is_same_v<A, float>) {
      const double size = value < 0.0 ? -value : value;
      if (size > 0x1p60) {
        power = 0x1p60f;
        rest = static_cast<float>(value * 0x1p-60);
      } else if (size < 0x1p-60 && size > 0.0) {
        power = 0x1p-60f;
        rest = static_cast<float>(value * 0x1p60);
      }
    }
  }
  __device__ A operator()(A value) const { return value * power * rest; }
};

// One side of the batch.
template <typename T>
struct RowSide {
  const T* vectors;  // [N, R, D]
  int64_t batch_stride, row_stride;
  const Accumulate<T>* mean;    // [D], or null
  const double* inverse_norms;  // [N, R]
  const int64_t* lengths;
  int64_t batch, rows;

  __device__ const T* row(int64_t n, int64_t r) const {
    return vectors + n * batch_stride + r * row_stride;
  }
};

struct alignas(8) Interval {
  int32_t begin;
  int32_t end;
};

template <typename T>
struct GradientProblem {
  RowSide<T> self, other;
  const double* grad;           // [B, K]
  const double* token_weights;  // [C, J], or null
  const Interval* intervals;    // [B, K, I]
  const int64_t* text_index;    // [B, K], or null
  const int64_t* first_pair;    // [C + 1] into `pairs`, for the gradient of the text with an index
  const int64_t* pairs;         // [B * K] in the order of their texts
  int64_t places, frames, width;
  int64_t rows_per_block;
  T* out;                  // [N, R, D], or null
  Accumulate<T>* partial;  // [blocks, D], minus the sums over the rows of a block; or null

  // Gradient of the cells of pair `at` on a token, which is at this place in [C, J].
  __device__ double cell_grad(int64_t at, int64_t token) const {
    return token_weights == nullptr ? grad[at] : grad[at] * token_weights[token];
  }
};

constexpr int kMaxRowThreads = 512;

// Enough partial sums to fill a device, few enough to be small beside the gradient. Depends on the
// problem only, so that the sum is the same on every device.
inline int64_t rows_per_block(int64_t rows, bool sums) {
  const int64_t spread = divide_up(rows, 2048);
  return !sums ? 1 : spread < 8 ? 8 : spread;
}

// What a thread knows about one row: its part of T, the sum of what the row met, as kPerThread packs.
template <typename T, int kPack, int kPerThread>
struct RowSum {
  using A = Accumulate<T>;
  A sum[kPerThread][kPack];

  __device__ static int64_t position(int64_t tile, int v) {
    return ((tile * kPerThread + v) * blockDim.x + threadIdx.x) * kPack;
  }

  __device__ void clear() {
#pragma unroll
    for (int v = 0; v < kPerThread; ++v) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        sum[v][e] = A(0);
      }
    }
  }

  // sum += weight * (row - mean)
  __device__ void add(const T* row, const A* mean, double weight, int64_t tile, int64_t width) {
    const Scale<A> scale(weight);
#pragma unroll
    for (int v = 0; v < kPerThread; ++v) {
      const int64_t d = position(tile, v);
      if (d < width) {
        const auto centred = read_centred(row + d, mean == nullptr ? nullptr : mean + d);
#pragma unroll
        for (int e = 0; e < kPack; ++e) {
          sum[v][e] += scale(centred.values[e]);
        }
      }
    }
  }

  __device__ static Pack<A, kPack> read_centred(const T* row, const A* mean) {
    const auto pack = read_pack<T, kPack>(row);
    Pack<A, kPack> centred{};
    if (mean != nullptr) {
      centred = read_pack<A, kPack>(mean);
    }
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      centred.values[e] = static_cast<A>(widen(pack.values[e])) - centred.values[e];
    }
    return centred;
  }
};

// Frames of one pair that may have met token j: the first and one past the last. Starts of intervals
// never fall; of the frames that start before j only the last one can reach it.
__device__ inline Interval frames_of_token(const Interval* intervals, int64_t frames, int64_t j) {
  const auto first_that_starts_at = [&](int64_t token) {
    int64_t low = 0, high = frames;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (intervals[middle].begin < token) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  };
  int64_t begin = first_that_starts_at(j);
  begin -= begin > 0 && intervals[begin - 1].end > j ? 1 : 0;
  return {static_cast<int32_t>(begin), static_cast<int32_t>(first_that_starts_at(j + 1))};
}

// Calls add(vector of the other side, weight) for all that row r of item n met, in a fixed order.
template <typename T, typename Add>
__device__ void meet_tokens(const GradientProblem<T>& problem, int64_t b, int64_t i, const Add& add) {
  for (int64_t at = b * problem.places; at < (b + 1) * problem.places; ++at) {
    const double grad = problem.grad[at];
    const int64_t c = problem.text_index == nullptr ? b : problem.text_index[at];
    THAITOOL_ASSERT(c >= 0 && c < problem.other.batch, "dtw: text_index is out of range");
    const Interval met = problem.intervals[at * problem.frames + i];
    THAITOOL_ASSERT(
        met.begin >= 0 && met.begin <= met.end && met.end <= problem.other.lengths[c],
        "dtw: an interval leaves the text");
    // zero stays zero, even where the pair holds NaN
    for (int64_t j = met.begin; grad != 0.0 && j < met.end; ++j) {
      const int64_t token = c * problem.other.rows + j;
      add(problem.other.row(c, j), problem.cell_grad(at, token) * problem.other.inverse_norms[token]);
    }
  }
}

template <typename T, typename Add>
__device__ void meet_frames(const GradientProblem<T>& problem, int64_t c, int64_t j, const Add& add) {
  const bool indexed = problem.text_index != nullptr;
  const int64_t begin = indexed ? problem.first_pair[c] : c;
  const int64_t end = indexed ? problem.first_pair[c + 1] : c + 1;
  for (int64_t p = begin; p < end; ++p) {
    const int64_t at = indexed ? problem.pairs[p] : p, b = at / problem.places;
    if (problem.grad[at] == 0.0) {
      continue;
    }
    const double grad = problem.cell_grad(at, c * problem.self.rows + j);
    const int64_t n = problem.other.lengths[b];
    THAITOOL_ASSERT(n >= 0 && n <= problem.other.rows, "dtw: a speech length is out of range");
    const Interval* intervals = problem.intervals + at * problem.frames;
    const Interval range = frames_of_token(intervals, n, j);
    for (int64_t i = range.begin; i < range.end; ++i) {
      if (intervals[i].begin <= j && j < intervals[i].end) {  // else dropped
        add(problem.other.row(b, i), grad * problem.other.inverse_norms[b * problem.other.rows + i]);
      }
    }
  }
}

// The sum over the block, the same bits in every thread. `parity` alternates from call to call, so
// that one barrier per call is enough.
__device__ inline double block_sum(double value, unsigned char* shared, int parity) {
  double* sums = reinterpret_cast<double*>(shared) + parity * (kMaxRowThreads / kWarp);
  const double mine = warp_sum(value);
  if (threadIdx.x % kWarp == 0) {
    sums[threadIdx.x / kWarp] = mine;
  }
  __syncthreads();
  double total = 0.0;
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) {
    total += sums[warp];
  }
  return total;
}

// Gradient of some rows of one side: -1 / |self| * (T - (T . unit_self) unit_self). A row that is wider
// than a block holds goes in tiles, in two passes.
template <typename T, int kPack, int kPerThread, bool kOfText>
struct RowGradient {
  using A = Accumulate<T>;
  using Sum = RowSum<T, kPack, kPerThread>;
  const GradientProblem<T>& problem;
  unsigned char* shared;
  const int64_t tiles;
  A* partial;
  Sum met, minus_sum;
  bool empty;
  int turn;

  __device__ RowGradient(const GradientProblem<T>& of, unsigned char* memory)
      : problem(of), shared(memory),
        tiles((of.width + kPerThread * blockDim.x * kPack - 1) / (kPerThread * blockDim.x * kPack)),
        partial(of.partial == nullptr ? nullptr : of.partial + int64_t{blockIdx.x} * of.width),
        empty(true), turn(0) {
    minus_sum.clear();
    for (int64_t tile = 0; tiles > 1 && partial != nullptr && tile < tiles; ++tile) {
      store_sums(tile);
    }
  }

  __device__ void gather(int64_t n, int64_t r, int64_t tile) {
    met.clear();
    const auto add = [&](const T* other, double weight) {
      met.add(other, problem.other.mean, weight, tile, problem.width);
      empty = false;
    };
    if constexpr (kOfText) {
      meet_frames(problem, n, r, add);
    } else {
      meet_tokens(problem, n, r, add);
    }
  }

  __device__ Pack<A, kPack> read_unit(const T* row, const Scale<A>& unit, int64_t d) const {
    const A* mean = problem.self.mean;
    auto centred = Sum::read_centred(row + d, mean == nullptr ? nullptr : mean + d);
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      centred.values[e] = unit(centred.values[e]);
    }
    return centred;
  }

  // T . unit_self
  __device__ A radial(int64_t n, int64_t r, const T* row, const Scale<A>& unit) {
    A mine = A(0);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      gather(n, r, tile);
#pragma unroll
      for (int v = 0; v < kPerThread; ++v) {
        const int64_t d = Sum::position(tile, v);
        if (!empty && d < problem.width) {
          const auto centred = read_unit(row, unit, d);
#pragma unroll
          for (int e = 0; e < kPack; ++e) {
            mine += met.sum[v][e] * centred.values[e];
          }
        }
      }
    }
    turn ^= 1;
    return static_cast<A>(block_sum(static_cast<double>(mine), shared, turn));
  }

  __device__ void run(int64_t at) {
    const RowSide<T>& self = problem.self;
    const int64_t n = at / self.rows, r = at % self.rows, valid = self.lengths[n];
    THAITOOL_ASSERT(valid >= 0 && valid <= self.rows, "dtw: a length is out of range");
    const double inverse = self.inverse_norms[at];
    const Scale<A> unit(inverse);
    const T* row = self.row(n, r);
    empty = true;
    A along = A(0);
    if (r < valid && inverse != 0.0) {
      along = radial(n, r, row, unit);
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      if (!empty && tiles > 1) {
        gather(n, r, tile);
      }
#pragma unroll
      for (int v = 0; v < kPerThread; ++v) {
        const int64_t d = Sum::position(tile, v);
        Pack<A, kPack> gradient{};
        if (!empty && d < problem.width) {
          const auto centred = read_unit(row, unit, d);
#pragma unroll
          for (int e = 0; e < kPack; ++e) {
            gradient.values[e] = -unit(met.sum[v][e] - along * centred.values[e]);
          }
        }
        if (d < problem.width) {
          write(at, v, d, gradient);
        }
      }
    }
  }

  __device__ void write(int64_t at, int v, int64_t d, const Pack<A, kPack>& gradient) {
    if (problem.out != nullptr) {
      Pack<T, kPack> narrowed;
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        narrowed.values[e] = narrow<T>(gradient.values[e]);
      }
      *reinterpret_cast<Pack<T, kPack>*>(problem.out + at * problem.width + d) = narrowed;
    }
    if (partial == nullptr) {
      return;
    }
    // With one tile the sums stay in registers until the end.
    auto* stored = reinterpret_cast<Pack<A, kPack>*>(partial + d);
    Pack<A, kPack> so_far{};
    if (tiles > 1) {
      so_far = *stored;
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        so_far.values[e] -= gradient.values[e];
      }
      *stored = so_far;
    } else {
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        minus_sum.sum[v][e] -= gradient.values[e];
      }
    }
  }

  __device__ void store_sums(int64_t tile) const {
#pragma unroll
    for (int v = 0; v < kPerThread; ++v) {
      const int64_t d = Sum::position(tile, v);
      if (d < problem.width) {
        Pack<A, kPack> sums;
#pragma unroll
        for (int e = 0; e < kPack; ++e) {
          sums.values[e] = minus_sum.sum[v][e];
        }
        *reinterpret_cast<Pack<A, kPack>*>(partial + d) = sums;
      }
    }
  }
};

template <typename T, int kPack, int kPerThread, bool kOfText>
__global__ void __launch_bounds__(kMaxRowThreads, 1) gradient_kernel(const GradientProblem<T> problem) {
  THAITOOL_SHARED(shared);
  const int64_t rows = problem.self.batch * problem.self.rows;
  const int64_t begin = int64_t{blockIdx.x} * problem.rows_per_block;
  const int64_t end = begin + problem.rows_per_block < rows ? begin + problem.rows_per_block : rows;
  RowGradient<T, kPack, kPerThread, kOfText> gradient(problem, shared);
  for (int64_t at = begin; at < end; ++at) {
    gradient.run(at);
  }
  if (gradient.partial != nullptr && gradient.tiles == 1) {
    gradient.store_sums(0);
  }
}

template <typename T, int kPack, int kPerThread, typename Launch>
void launch_gradient_of_packs(
    const GradientProblem<T>& problem, bool of_text, const Launch& launch) {
  const int64_t wanted = divide_up(problem.width, kPack * kPerThread * kWarp) * kWarp;
  const Geometry geometry{
      divide_up(problem.self.batch * problem.self.rows, problem.rows_per_block),
      static_cast<int>(wanted < kMaxRowThreads ? wanted : kMaxRowThreads),
      2 * (kMaxRowThreads / kWarp) * int64_t{sizeof(double)}};
  if (of_text) {
    launch(gradient_kernel<T, kPack, kPerThread, true>, geometry, problem);
  } else {
    launch(gradient_kernel<T, kPack, kPerThread, false>, geometry, problem);
  }
}

// `aligned`: all rows of both sides can be read and written in packs of 16 bytes.
template <typename T, typename Launch>
void launch_gradient(
    const GradientProblem<T>& problem, bool aligned, bool of_text, const Launch& launch) {
  if (!aligned) {
    launch_gradient_of_packs<T, 1, 2>(problem, of_text, launch);
  } else if (problem.width <= int64_t{kFullPack<T>} * kMaxRowThreads) {
    launch_gradient_of_packs<T, kFullPack<T>, 1>(problem, of_text, launch);
  } else {
    launch_gradient_of_packs<T, kFullPack<T>, 2>(problem, of_text, launch);
  }
}

}  // namespace thaitool::cuda
