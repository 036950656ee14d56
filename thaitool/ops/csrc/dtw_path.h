// The dynamic programme of one pair on the CPU: fills the table of steps, walks back along the path.
// Knows no batches and no tensors; one cell is defined in dtw_cell.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "dtw_cell.h"
#include "rows.h"

namespace thaitool {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr uint8_t kDropped = 4;  // set beside the step in a cell whose frame is rather dropped

// What one pair brings along; all pointers are to its first valid element.
template <typename T>
struct Pair {
  const T* dots;  // [I, J], rows `row_stride` apart
  int64_t row_stride;
  const double* inverse_frame;  // [I]
  const double* inverse_token;  // [J]
  const double* frame_shift;    // [I], or null without centring
  const double* token_shift;    // [J], or null without centring
  const double* drop_cost;      // [I], or null: no frame may be dropped
  const double* token_weights;  // [J], or null: of the cells in the sum
  Grid grid;

  double cost(int64_t i, int64_t j) const {
    return cell_cost(
        dots[i * row_stride + j], frame_shift == nullptr ? 0.0 : frame_shift[i],
        token_shift == nullptr ? 0.0 : token_shift[j], inverse_frame[i], inverse_token[j]);
  }
};

struct PathSum {
  double cost;
  int32_t length;
};

// Rows of the table and what does not change between rows; reused from pair to pair.
struct Scratch {
  std::vector<double> above, here, price, entry, token_share;
  std::unique_ptr<uint8_t[]> steps;
  int64_t cells = 0;

  void fit(int64_t frames, int64_t tokens) {
    above.assign(tokens + 1, kInfinity);
    here.assign(tokens + 1, kInfinity);
    price.resize(tokens);
    entry.resize(tokens);
    token_share.resize(tokens);
    if (frames * tokens > cells) {
      cells = frames * tokens;
      steps.reset(new uint8_t[cells]);  // not zeroed: every cell that is read is written first
    }
  }
};

// Costs of one row in columns begin..end.
template <typename T>
THAITOOL_CLONES void price_row(
    const T* dots, double frame_shift, const double* token_shift, double inverse_frame,
    const double* inverse_token, int64_t begin, int64_t end, double* price) {
  if (token_shift == nullptr) {
    for (int64_t j = begin; j < end; ++j) {
      price[j] = cell_cost(dots[j], 0.0, 0.0, inverse_frame, inverse_token[j]);
    }
  } else {
    for (int64_t j = begin; j < end; ++j) {
      price[j] = cell_cost(dots[j], frame_shift, token_shift[j], inverse_frame, inverse_token[j]);
    }
  }
}

// The better of the two ways in from the row above; the token step comes after it.
THAITOOL_CLONES inline void enter_row(
    const double* above, int64_t begin, int64_t end, double* entry, uint8_t* steps) {
  for (int64_t j = begin; j < end; ++j) {
    const Predecessor best = better({above[j], kDiagonal}, above[j + 1], kFrame);
    entry[j] = best.total;
    steps[j] = best.step;
  }
}

// Fills `scratch.steps` [I, J] with the best way into each cell.
template <typename T>
void fill_steps(const Pair<T>& pair, Scratch& scratch) {
  const Grid& grid = pair.grid;
  const int64_t tokens = grid.tokens;
  const bool may_drop = pair.drop_cost != nullptr;
  // Column 0 of both rows stands outside the grid: no token yet, all frames so far dropped.
  double *above = scratch.above.data(), *here = scratch.here.data(), *price = scratch.price.data();
  above[0] = 0.0;
  for (int64_t j = 0; j < tokens; ++j) {
    scratch.token_share[j] = static_cast<double>(j) / static_cast<double>(tokens);
  }
  for (int64_t i = 0; i < grid.frames; ++i) {
    const int64_t begin = grid.first_token(i), end = grid.end_token(i);
    const double drop = may_drop ? drop_price(pair.drop_cost[i], pair.inverse_frame[i]) : kInfinity;
    uint8_t* steps = scratch.steps.get() + i * tokens;
    price_row(
        pair.dots + i * pair.row_stride, pair.frame_shift == nullptr ? 0.0 : pair.frame_shift[i],
        pair.token_shift, pair.inverse_frame[i], pair.inverse_token, begin, end, price);
    if (grid.prior != 0.0) {
      const double frame_share = static_cast<double>(i) / static_cast<double>(grid.frames);
      for (int64_t j = begin; j < end; ++j) {
        const double offset = frame_share - scratch.token_share[j];
        price[j] += grid.prior * (offset * offset);
      }
    }
    enter_row(above, begin, end, scratch.entry.data(), steps);
    // Outside the band nothing is matched; dropping a frame stays in the column it is in.
    for (int64_t j = 0; j < begin; ++j) {
      here[j + 1] = may_drop ? above[j + 1] + drop : kInfinity;
      steps[j] = kDropped;
    }
    for (int64_t j = end; j < tokens; ++j) {
      here[j + 1] = may_drop ? above[j + 1] + drop : kInfinity;
      steps[j] = kDropped;
    }
    double matched = kInfinity;  // left of the band there is no cell of this frame
    for (int64_t j = begin; j < end; ++j) {
      const Predecessor best = better(
          {scratch.entry[j], static_cast<Step>(steps[j])}, grid.monotonic ? kInfinity : matched,
          kToken);
      steps[j] = best.step;
      matched = best.total + price[j];
      here[j + 1] = matched;
      if (may_drop && drops(matched, above[j + 1] + drop)) {
        here[j + 1] = above[j + 1] + drop;
        steps[j] |= kDropped;
      }
    }
    here[0] = may_drop ? above[0] + drop : kInfinity;
    std::swap(above, here);
  }
}

// Walks back from the last cell; writes the half-open token interval of each frame, which is empty
// for a dropped one.
template <typename T>
PathSum walk_back(const Pair<T>& pair, const uint8_t* steps, int32_t* intervals) {
  const Grid& grid = pair.grid;
  const bool may_drop = pair.drop_cost != nullptr;
  PathSum sum{0.0, 0};
  int64_t i = grid.frames - 1, j = grid.tokens - 1;
  bool entered = false;  // by a token step: frame i has matched a later token and cannot be dropped
  while (i >= 0) {
    const uint8_t code = steps[i * grid.tokens + j];
    ++sum.length;
    if (may_drop && !entered && i > 0 && (code & kDropped) != 0) {
      sum.cost += drop_price(pair.drop_cost[i], pair.inverse_frame[i]);
      intervals[2 * i] = intervals[2 * i + 1] = static_cast<int32_t>(j);
      --i;
      continue;
    }
    const double cost = pair.cost(i, j);
    sum.cost += pair.token_weights == nullptr ? cost : pair.token_weights[j] * cost;
    intervals[2 * i] = static_cast<int32_t>(j);
    if (!entered) {
      intervals[2 * i + 1] = static_cast<int32_t>(j + 1);
    }
    if (i == 0 && j == 0) {
      return sum;
    }
    const Step step = step_back(i, j, code & 3, may_drop);
    entered = step == kToken;
    i -= step == kToken ? 0 : 1;
    if (j == 0 && step == kDiagonal) {
      break;  // the path begins here
    }
    j -= step == kFrame ? 0 : 1;
  }
  for (; i >= 0; --i) {
    sum.cost += drop_price(pair.drop_cost[i], pair.inverse_frame[i]);
    ++sum.length;
    intervals[2 * i] = intervals[2 * i + 1] = 0;
  }
  return sum;
}

}  // namespace thaitool
