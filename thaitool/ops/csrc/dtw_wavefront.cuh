// Fills the table of DTW steps of one pair on CUDA: a wavefront in registers, one block per pair.
// Does not walk back (dtw_kernels.cuh). One cell is defined in dtw_cell.h; the same for the CPU is
// dtw_path.h.
//
// A lane owns C neighbouring tokens. At step t of its warp it is at frame t - 2 - lane, so that what
// it needs from the lane to its left is what that lane computed one step before. Frames are read
// `kAhead` steps before they are needed, a whole warp at one frame, and each lane keeps its own
// prices in shared memory until its turn comes. The last lane of a warp leaves its column in a ring,
// from which the next warp, 48 steps behind, takes it; a barrier every 16 steps orders the two.
// More tokens than a block has columns go in strips, with the last column of a strip in memory.
#pragma once

#include "device.cuh"
#include "dtw_cell.h"

namespace thaitool::cuda {

constexpr int kGroup = 16;              // steps between barriers
constexpr int kSkew = kWarp + kGroup;   // steps a warp is behind the one to its left
constexpr int kDelay = kWarp + 1;       // frames for which a lane keeps its prices
constexpr int kRing = 2 * kGroup;       // frames a boundary column keeps
constexpr int kDropRing = 64;           // frames for which drop prices are kept
constexpr int kMaxWarps = 8;
constexpr int kSlots = kMaxWarps * kWarp;  // partial sums of the path, whatever the block's size

// Rows `first`..`last` that a path has in one column.
struct alignas(8) Span {
  int32_t first;
  int32_t last;
};

struct PathPlan {
  int warps;
  int columns_per_lane;
  int64_t warp_bytes;   // shared memory of one warp
  int64_t bit_words;    // words of 32 bits that hold the steps of one pair
  bool bits_in_shared;  // else in global scratch

  THAITOOL_HOST_DEVICE int64_t strip() const { return int64_t{warps} * kWarp * columns_per_lane; }
  Geometry geometry(int64_t pairs) const {
    return {pairs, warps * kWarp, warps * warp_bytes + (bits_in_shared ? 4 * bit_words : 0)};
  }
};

inline int64_t shared_bytes_per_warp(int columns_per_lane, int64_t item_size, bool drop) {
  const int64_t delay = kDelay * kWarp * columns_per_lane * item_size;
  const int64_t doubles = 2 * kGroup + (drop ? kDropRing + 2 * kRing : kRing);
  return divide_up(delay, 16) * 16 + 8 * doubles;
}

// `shared_limit` is what a block of this device may have.
inline PathPlan plan_path(
    int64_t frames, int64_t tokens, int64_t item_size, bool drop, int64_t shared_limit) {
  PathPlan plan{};
  plan.columns_per_lane = tokens > kMaxWarps * kWarp ? 2 : 1;
  plan.warp_bytes = shared_bytes_per_warp(plan.columns_per_lane, item_size, drop);
  const int64_t wanted = divide_up(tokens, kWarp * plan.columns_per_lane);
  plan.warps = static_cast<int>(wanted < 1 ? 1 : wanted < kMaxWarps ? wanted : kMaxWarps);
  while (plan.warps > 1 && plan.warps * plan.warp_bytes > shared_limit) {
    --plan.warps;
  }
  plan.bit_words = (drop ? 3 : 2) * divide_up(frames, 32) * tokens;
  plan.bits_in_shared = plan.warps * plan.warp_bytes + 4 * plan.bit_words <= shared_limit;
  return plan;
}

template <typename T>
struct PathProblem {
  const T* dots;  // [B, K, I, J]
  int64_t speech_stride, place_stride, frame_stride;
  const double *inverse_frame, *inverse_token;  // [B, I], [C, J]
  const double *frame_shift, *token_shift;      // likewise, or null
  const double* drop_cost;                      // [B, I], or null
  const double* token_weights;                  // [C, J], or null: of the cells in the sum
  const int64_t* text_index;                    // [B, K], or null
  const int64_t *speech_lengths, *text_lengths;
  int64_t pairs, places, frames, texts, tokens;
  double band, prior;
  bool monotonic;
  PathPlan plan;
  uint32_t* bits;    // [B * K, bit_words], or null when in shared memory
  double* boundary;  // [B * K, I, 2], or null with one strip
  Span* spans;       // [B * K, J]
  Span* intervals;   // [B, K, I]
  int32_t* path_length;
  double* path_cost;
};

// One pair, with the pointers at its first element.
template <typename T>
struct PairView {
  const T* dots;
  int64_t frame_stride;
  const double *inverse_frame, *inverse_token, *frame_shift, *token_shift, *drop_cost;
  const double* token_weights;
  Grid grid;
  uint32_t* bits;  // [ceil(n / 32), m, planes]: frame steps, token steps, and dropped frames
  double* boundary;
  Span *spans, *intervals;

  __device__ double cost(int64_t i, int64_t j) const {
    return cell_cost(
        dots[i * frame_stride + j], frame_shift == nullptr ? 0.0 : frame_shift[i],
        token_shift == nullptr ? 0.0 : token_shift[j], inverse_frame[i], inverse_token[j]);
  }
  // What the cell adds to the sum; a path is chosen by costs alone.
  __device__ double weighted_cost(int64_t i, int64_t j) const {
    return token_weights == nullptr ? cost(i, j) : token_weights[j] * cost(i, j);
  }
  __device__ double price(int64_t i) const { return drop_price(drop_cost[i], inverse_frame[i]); }
};

// Shared memory of one warp.
template <typename T>
struct WarpMemory {
  T* delay;                // [kDelay, C, lanes]; a lane touches only its own
  double *inverse, *shift; // [kGroup], of the frames of this group
  double* ring;            // [kRing] matched, [kRing] value: the column to the left of this warp
  double* price;           // [kDropRing]

  __device__ WarpMemory(unsigned char* shared, const PathPlan& plan, int warp) {
    unsigned char* base = shared + warp * plan.warp_bytes;
    delay = reinterpret_cast<T*>(base);
    const int64_t size = kDelay * kWarp * plan.columns_per_lane * sizeof(T);
    inverse = reinterpret_cast<double*>(base + (size + 15) / 16 * 16);
    shift = inverse + kGroup;
    ring = shift + kGroup;
    price = ring + 2 * kRing;
  }
};

// One lane of the wavefront in one strip. kDrop: frames may be dropped; kConstrained: band, prior or
// monotonic steps.
template <typename T, int C, bool kDrop, bool kConstrained>
struct Lane {
  static constexpr int kAhead = kGroup / C;
  static constexpr int kPlanes = kDrop ? 3 : 2;
  static constexpr int kRow = C * kWarp;  // numbers of one frame in the delay line
  const PairView<T>& pair;
  const WarpMemory<T> memory, to_the_right;
  const int frames, lane;
  const int64_t column;  // the first that the lane owns
  const bool first_warp, first_strip, to_warp, to_strip;  // to: where the last column goes
  int write_at, read_at;  // in the delay line
  const T* ahead;         // the frame that is read next
  double inverse_token[C], token_shift[C], above[C];
  uint32_t frame_bits[C], token_bits[C], drop_bits[C];
  T loaded[kAhead][C], cost[C];
  double price, outside, matched, value, diagonal, entering_matched, entering_value;
  double next_inverse, next_shift, next_price, next_matched, next_value;

  __device__ Lane(
      const PairView<T>& of, unsigned char* shared, const PathPlan& plan, int64_t first, int active)
      : pair(of), memory(shared, plan, threadIdx.x / kWarp),
        to_the_right(shared, plan, threadIdx.x / kWarp + 1),
        frames(static_cast<int>(of.grid.frames)), lane(threadIdx.x % kWarp),
        column(first + static_cast<int64_t>(threadIdx.x) * C), first_warp(threadIdx.x < kWarp),
        first_strip(first == 0),
        to_warp(lane == kWarp - 1 && static_cast<int>(threadIdx.x) / kWarp < active - 1),
        to_strip(
            lane == kWarp - 1 && static_cast<int>(threadIdx.x) / kWarp == active - 1 &&
            first + plan.strip() < of.grid.tokens) {
    write_at = lane;
    read_at = (kDelay - 1 - lane) * kRow + lane;
    ahead = pair.dots + column;
    price = matched = value = diagonal = kInfinity;
    // The corner from which the first cell is entered costs nothing; a frame before the first costs
    // infinity whatever it is entered from.
    entering_matched = entering_value = first_warp && first_strip ? 0.0 : kInfinity;
    if (first_warp && first_strip) {
      memory.ring[lane] = kInfinity;  // no token is matched to the left of the first
    }
    outside = next_inverse = next_shift = next_price = next_matched = next_value = 0.0;
    for (int c = 0; c < C; ++c) {
      inverse_token[c] = owns(c) ? pair.inverse_token[column + c] : 0.0;
      token_shift[c] = owns(c) && pair.token_shift != nullptr ? pair.token_shift[column + c] : 0.0;
      above[c] = kInfinity;
      cost[c] = static_cast<T>(kInfinity);
      frame_bits[c] = token_bits[c] = drop_bits[c] = 0;
    }
    // Frames before the first cost infinity, so that no lane has to know when it starts.
    for (int at = 0; at < kDelay * C; ++at) {
      memory.delay[at * kWarp + lane] = static_cast<T>(kInfinity);
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      load(u, u);
    }
    hold(0);
  }

  __device__ bool owns(int c) const { return column + c < pair.grid.tokens; }

  __device__ void load(int u, int row) {
#pragma unroll
    for (int c = 0; c < C; ++c) {
      loaded[u][c] = row < frames && owns(c) ? ahead[c] : T(0);
    }
    ahead += pair.frame_stride;
  }

  // Reads what the group that starts at frame `begin` needs once per frame.
  __device__ void hold(int begin) {
    const int row = begin + lane;
    if (lane < kGroup && row < frames) {
      next_inverse = pair.inverse_frame[row];
      next_shift = pair.frame_shift == nullptr ? 0.0 : pair.frame_shift[row];
      next_price = kDrop ? pair.price(row) : 0.0;
    }
    if (lane < kGroup && row > 0 && row <= frames && first_warp && !first_strip) {
      next_matched = pair.boundary[2 * int64_t{row - 1}];
      next_value = pair.boundary[2 * int64_t{row - 1} + 1];
    }
  }

  __device__ void start_group(int begin) {
    __syncwarp();  // all lanes have read what the group before left here
    if (lane < kGroup) {
      memory.inverse[lane] = next_inverse;
      memory.shift[lane] = next_shift;
      if (kDrop) {
        memory.price[(begin + lane) % kDropRing] = next_price;
      }
      if (first_warp && !first_strip) {
        memory.ring[(begin + lane + kRing - 1) % kRing] = next_matched;
        memory.ring[kRing * kDrop + (begin + lane + kRing - 1) % kRing] = next_value;
      }
    }
    __syncwarp();
    hold(begin + kGroup);
  }

  // Step t of the warp; u is t modulo kAhead, known to the compiler; `within` is t modulo kGroup.
  __device__ void step(int t, int within, int u) {
    price_frame(t, within, u);
    const int i = t - 2 - lane;
    double left_matched = __shfl_up_sync(kAllLanes, matched, 1);
    double left_value = kDrop ? __shfl_up_sync(kAllLanes, value, 1) : left_matched;
    if (lane == 0) {
      left_matched = entering_matched;
      left_value = entering_value;
    }
    matched = left_matched;
#pragma unroll
    for (int c = 0; c < C; ++c) {
      cell(i, c);
    }
    diagonal = left_value;
    value = above[C - 1];
    if (((i & 31) == 31 || i == frames - 1) && i >= 0 && i < frames) {
      store_bits(i);
    }
    leave(i);
    fetch(i + 1);
  }

  // Prices frame t, which was read kAhead steps ago, and reads another in its place.
  __device__ void price_frame(int t, int within, int u) {
    const double inverse = memory.inverse[within], shift = memory.shift[within];
#pragma unroll
    for (int c = 0; c < C; ++c) {
      memory.delay[write_at + c * kWarp] = static_cast<T>(
          cell_cost(loaded[u][c], shift, token_shift[c], inverse, inverse_token[c]));
    }
    write_at += write_at < (kDelay - 1) * kRow ? kRow : -(kDelay - 1) * kRow;
    load(u, t + kAhead);
  }

  // On entry `matched` is M(i, j - 1), `diagonal` is V(i - 1, j - 1) and above[c] is V(i - 1, j).
  __device__ void cell(int i, int c) {
    const Grid& grid = pair.grid;
    const bool admitted = !kConstrained || grid.admits(i, column + c);
    Predecessor best = better(Predecessor{diagonal, kDiagonal}, above[c], kFrame);
    double share = static_cast<double>(cost[c]);
    if constexpr (kConstrained) {
      best = grid.monotonic ? best : better(best, matched, kToken);
      share += grid.prior != 0.0 ? grid.penalty(i, column + c) : 0.0;
      best.step = admitted ? best.step : kDiagonal;
    } else {
      best = better(best, matched, kToken);
    }
    matched = admitted ? best.total + share : kInfinity;
    double best_value = matched;
    if constexpr (kDrop) {
      const double without = above[c] + price;
      const bool dropped = !admitted || drops(matched, without);
      best_value = dropped ? without : matched;
      drop_bits[c] = (drop_bits[c] >> 1) | (dropped ? 0x80000000u : 0u);
    }
    frame_bits[c] = (frame_bits[c] >> 1) | (best.step == kFrame ? 0x80000000u : 0u);
    token_bits[c] = (token_bits[c] >> 1) | (best.step == kToken ? 0x80000000u : 0u);
    diagonal = above[c];
    above[c] = best_value;
  }

  __device__ void store_bits(int i) {
    const int unused = 31 - i % 32;
#pragma unroll
    for (int c = 0; c < C; ++c) {
      if (owns(c)) {
        uint32_t* words = pair.bits + (i / 32 * pair.grid.tokens + column + c) * kPlanes;
        words[0] = frame_bits[c] >> unused;
        words[1] = token_bits[c] >> unused;
        if constexpr (kDrop) {
          words[2] = drop_bits[c] >> unused;
        }
      }
    }
  }

  // The last lane leaves its column to the warp to the right, or to the next strip.
  __device__ void leave(int i) {
    if (to_warp) {
      to_the_right.ring[i & (kRing - 1)] = matched;
      if (kDrop) {
        to_the_right.ring[kRing + (i & (kRing - 1))] = value;
      }
    }
    if (to_strip && i >= 0 && i < frames) {
      pair.boundary[2 * int64_t{i}] = matched;
      pair.boundary[2 * int64_t{i} + 1] = value;
    }
  }

  // What the next step needs of frame i. Before the first frame everything is infinite.
  __device__ void fetch(int i) {
#pragma unroll
    for (int c = 0; c < C; ++c) {
      cost[c] = memory.delay[read_at + c * kWarp];
    }
    read_at += read_at < (kDelay - 1) * kRow ? kRow : -(kDelay - 1) * kRow;
    if (kDrop) {
      price = i >= 0 ? memory.price[i & (kDropRing - 1)] : kInfinity;
    }
    if (lane == 0 && i >= 0) {
      entering_matched = memory.ring[i & (kRing - 1)];
      if (kDrop && first_warp && first_strip) {
        outside += price;  // all frames so far are dropped
        entering_value = outside;
      } else {
        entering_value = memory.ring[kRing * kDrop + (i & (kRing - 1))];
      }
    }
  }
};

// Fills pair.bits.
template <typename T, int C, bool kDrop, bool kConstrained>
__device__ void fill_steps(
    const PairView<T>& pair, unsigned char* shared, const PathPlan& plan) {
  const int warp = threadIdx.x / kWarp;
  const int64_t frames = pair.grid.frames;
  for (int64_t first = 0; first < pair.grid.tokens; first += plan.strip()) {
    const int64_t rest = pair.grid.tokens - first, used = (rest + kWarp * C - 1) / (kWarp * C);
    const int active = used < plan.warps ? static_cast<int>(used) : plan.warps;
    if (first > 0) {
      __syncthreads();  // the strip before is in memory, and its rings are free
    }
    Lane<T, C, kDrop, kConstrained> lane(pair, shared, plan, first, active);
    const int64_t steps = frames + kWarp + 1;
    for (int64_t start = -int64_t{kSkew} * warp; start < steps + kSkew * (active - 1 - warp);
         start += kGroup) {
      if (warp < active && start >= 0 && start < steps) {
        const int begin = static_cast<int>(start);
        lane.start_group(begin);
        for (int part = 0; part < kGroup; part += lane.kAhead) {
#pragma unroll
          for (int u = 0; u < lane.kAhead; ++u) {
            lane.step(begin + part + u, part + u, u);
          }
        }
      }
      if (active > 1) {
        __syncthreads();
      }
    }
  }
}

}  // namespace thaitool::cuda
