// One cell of hard DTW: its cost, whether the band admits it, and which predecessor wins a tie.
// No loops, no memory, no torch: host and device kernels include the same text, so that they
// cannot drift apart. The same definition in Python is thaitool/ops/reference.py.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__) || defined(__HIPCC__)
#define THAITOOL_HOST_DEVICE __host__ __device__
#else
#define THAITOOL_HOST_DEVICE
#endif

namespace thaitool {

// How a path enters a cell: next frame and next token, next frame only, next token only.
// The order of the values is the tie rule: of equal totals the smaller value wins.
enum Step : uint8_t { kDiagonal = 0, kFrame = 1, kToken = 2 };

// 1 - cos of the centred pair. `shift` is what centring takes from the dot product of the vectors as
// they came: (h - u).(e - v) = h.e - h.v - (e - v).u; 0 without means. The cosine is rounded to T
// before the subtraction: with T = float every cost is then a multiple of 2^-24, double sums of
// costs are exact, and a path does not depend on the order in which a device adds. An inverse norm
// of 0 stands for a zero vector: the cosine is 0.
template <typename T>
THAITOOL_HOST_DEVICE inline double cell_cost(
    T dot, double frame_shift, double token_shift, double inverse_frame, double inverse_token) {
  const double centred = (static_cast<double>(dot) - frame_shift) - token_shift;
  const T cosine = static_cast<T>(centred * inverse_frame * inverse_token);
  return static_cast<double>(static_cast<T>(1) - cosine);
}

// What does not change from cell to cell of one pair.
struct Grid {
  int64_t frames;
  int64_t tokens;
  int64_t half_width;
  double prior;
  bool monotonic;

  // Integers, so that every device and the reference agree on the border of the band. With one
  // frame or one token the left side is 0 and the band admits everything.
  THAITOOL_HOST_DEVICE bool admits(int64_t i, int64_t j) const {
    const int64_t offset = i * (tokens - 1) - j * (frames - 1);
    return offset <= half_width && -offset <= half_width;
  }

  // The admitted tokens of frame i are first_token(i) <= j < end_token(i); never empty.
  THAITOOL_HOST_DEVICE int64_t first_token(int64_t i) const {
    const int64_t over = i * (tokens - 1) - half_width;
    return frames == 1 || over <= 0 ? 0 : (over + frames - 2) / (frames - 1);
  }

  THAITOOL_HOST_DEVICE int64_t end_token(int64_t i) const {
    if (frames == 1) {
      return tokens;
    }
    const int64_t last = (i * (tokens - 1) + half_width) / (frames - 1);
    return last < tokens ? last + 1 : tokens;
  }

  // Added to the cost that selects the path, never to the loss.
  THAITOOL_HOST_DEVICE double penalty(int64_t i, int64_t j) const {
    const double offset = static_cast<double>(i) / static_cast<double>(frames) -
                          static_cast<double>(j) / static_cast<double>(tokens);
    return prior * (offset * offset);
  }
};

THAITOOL_HOST_DEVICE inline Grid make_grid(
    int64_t frames, int64_t tokens, double band, double prior, bool monotonic) {
  const int64_t longer = frames > tokens ? frames : tokens;
  // A straight line rounded to cells is a path and leaves the diagonal by at most half a cell of
  // the shorter side; a band that is at least as wide is never empty.
  const int64_t feasible = (longer - 1) / 2;
  const double area = static_cast<double>((frames - 1) * (tokens - 1));
  const int64_t asked = static_cast<int64_t>(std::floor((band < 1.0 ? band : 1.0) * area));
  return Grid{frames, tokens, asked > feasible ? asked : feasible, prior, monotonic};
}

struct Predecessor {
  double total;
  Step step;
};

// Strict: a tie, and any comparison with NaN, keeps the earlier choice.
THAITOOL_HOST_DEVICE inline Predecessor better(Predecessor best, double total, Step step) {
  return total < best.total ? Predecessor{total, step} : best;
}

// A frame is dropped instead of matched only if that is strictly cheaper, so NaN is never dropped.
THAITOOL_HOST_DEVICE inline bool drops(double matched, double dropped) { return dropped < matched; }

// What dropping a frame costs: NaN for a frame that holds NaN or Inf, which must not vanish from
// the sum by being dropped.
THAITOOL_HOST_DEVICE inline double drop_price(double drop_cost, double inverse_frame) {
  return inverse_frame == inverse_frame ? drop_cost : inverse_frame;
}

// Which step a backtrace takes out of a matched cell; the borders are forced, so that NaN cannot
// lead out of the grid. With drop costs a path may begin at any frame: its first cell (i, 0) is
// entered diagonally and the frames before it are dropped.
THAITOOL_HOST_DEVICE inline Step step_back(int64_t i, int64_t j, uint8_t stored, bool may_drop) {
  if (i == 0) {
    return kToken;
  }
  if (j == 0 && !(may_drop && stored == kDiagonal)) {
    return kFrame;
  }
  return static_cast<Step>(stored);
}

}  // namespace thaitool
