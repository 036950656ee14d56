// CPU kernels of the DTW alignment loss under torch's stable ABI: inverse norms, path, gradient.
// The dot products come from the library GEMM and are an argument; thaitool/ops/dtw.py calls it.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "dtw_cell.h"

namespace {

using thaitool::Grid;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

#define THAITOOL_DISPATCH(TYPE, NAME, ...)                          \
  THO_DISPATCH_SWITCH(                                              \
      TYPE,                                                         \
      NAME,                                                         \
      THO_DISPATCH_CASE(ScalarType::Double, __VA_ARGS__)            \
      THO_DISPATCH_CASE(ScalarType::Float, __VA_ARGS__)             \
      THO_DISPATCH_CASE(ScalarType::Half, __VA_ARGS__)              \
      THO_DISPATCH_CASE(ScalarType::BFloat16, __VA_ARGS__))

template <typename T>
T narrow_to(double value) {
  if constexpr (std::is_same_v<T, double>) {
    return value;
  } else {
    return static_cast<T>(static_cast<float>(value));
  }
}

// Eight running sums: they vectorise, and their fixed order gives the same bits on every run.
template <typename A, typename B>
double dot(const A* left, const B* right, int64_t width) {
  std::array<double, 8> lanes{};
  int64_t d = 0;
  for (; d + 8 <= width; d += 8) {
    for (int64_t lane = 0; lane < 8; ++lane) {
      lanes[lane] += static_cast<double>(left[d + lane]) * static_cast<double>(right[d + lane]);
    }
  }
  for (; d < width; ++d) {
    lanes[d % 8] += static_cast<double>(left[d]) * static_cast<double>(right[d]);
  }
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
         ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

// Pairs per task: waking a thread costs more than a small pair.
int64_t grain(int64_t work_per_pair) {
  constexpr int64_t kWorkPerTask = 1 << 15;
  return std::max<int64_t>(1, kWorkPerTask / std::max<int64_t>(1, work_per_pair));
}

// Lengths index memory below, so they are checked here too; the sentence for users is in dtw.py.
const int64_t* checked_lengths(const Tensor& lengths, int64_t pairs, int64_t limit) {
  STD_TORCH_CHECK(
      lengths.dim() == 1 && lengths.size(0) == pairs && lengths.is_contiguous(),
      "dtw: lengths must be contiguous and of shape (", pairs, ",)");
  const int64_t* data = lengths.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < pairs; ++b) {
    STD_TORCH_CHECK(
        data[b] >= 0 && data[b] <= limit,
        "dtw: length ", data[b], " of pair ", b, " is not in 0..", limit);
  }
  return data;
}

void check_shape(const Tensor& tensor, std::initializer_list<int64_t> shape, const char* name) {
  bool same = tensor.dim() == static_cast<int64_t>(shape.size()) && tensor.is_contiguous();
  int64_t axis = 0;
  for (const int64_t size : shape) {
    same = same && tensor.size(axis++) == size;
  }
  STD_TORCH_CHECK(same, "dtw: ", name, " has the wrong shape or is not contiguous");
}

// vectors [B, N, D], lengths [B] -> float64 [B, N]: 1 / norm; 0 for a zero vector and in the
// padding, NaN for a vector with NaN or Inf.
Tensor inverse_norms(const Tensor& vectors, const Tensor& lengths) {
  STD_TORCH_CHECK(vectors.dim() == 3, "dtw: vectors must be 3-D, but have ", vectors.dim(), " axes");
  const Tensor input = torch::stable::contiguous(vectors);
  const int64_t pairs = input.size(0), rows = input.size(1), width = input.size(2);
  const int64_t* valid = checked_lengths(lengths, pairs, rows);
  Tensor output = torch::stable::new_zeros(input, {pairs, rows}, ScalarType::Double);
  double* out = output.mutable_data_ptr<double>();
  THAITOOL_DISPATCH(input.scalar_type(), "dtw_inverse_norms", [&] {
    const scalar_t* in = static_cast<const scalar_t*>(input.const_data_ptr());
    torch::stable::parallel_for(0, pairs, grain(rows * width), [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        for (int64_t n = 0; n < valid[b]; ++n) {
          const scalar_t* row = in + (b * rows + n) * width;
          const double norm = std::sqrt(dot(row, row, width));
          out[b * rows + n] = norm == 0.0         ? 0.0
                              : std::isfinite(norm) ? 1.0 / norm
                                                    : std::numeric_limits<double>::quiet_NaN();
        }
      }
    });
  });
  return output;
}

struct PathSum {
  double cost;
  int32_t length;
};

// Fills `steps` [I, J] with the best way into each cell.
template <typename T>
void fill_steps(
    const T* dots, int64_t row_stride, const double* inverse_frame, const double* inverse_token,
    const Grid& grid, uint8_t* steps) {
  // Column 0 of both rows stands outside the grid; (0, 0) is entered diagonally from there.
  std::vector<double> previous(grid.tokens + 1, kInfinity), current(grid.tokens + 1, kInfinity);
  previous[0] = 0.0;
  for (int64_t i = 0; i < grid.frames; ++i) {
    for (int64_t j = 0; j < grid.tokens; ++j) {
      const auto best = thaitool::cheapest(
          previous[j], previous[j + 1], grid.monotonic ? kInfinity : current[j]);
      steps[i * grid.tokens + j] = best.step;
      current[j + 1] = kInfinity;
      if (grid.admits(i, j)) {
        const double cost =
            thaitool::cell_cost(dots[i * row_stride + j], inverse_frame[i], inverse_token[j]);
        current[j + 1] = best.total + (cost + grid.penalty(i, j));
      }
    }
    std::swap(previous, current);
    current[0] = kInfinity;
  }
}

// Walks back from the last cell; writes the half-open token interval of each frame.
template <typename T>
PathSum walk_back(
    const T* dots, int64_t row_stride, const double* inverse_frame, const double* inverse_token,
    const Grid& grid, const uint8_t* steps, int32_t* intervals) {
  PathSum sum{0.0, 0};
  int64_t i = grid.frames - 1, j = grid.tokens - 1;
  intervals[2 * i + 1] = static_cast<int32_t>(j + 1);
  while (true) {
    sum.cost += thaitool::cell_cost(dots[i * row_stride + j], inverse_frame[i], inverse_token[j]);
    ++sum.length;
    if (i == 0 && j == 0) {
      intervals[0] = 0;
      return sum;
    }
    const thaitool::Step step = thaitool::step_back(i, j, steps[i * grid.tokens + j]);
    if (step != thaitool::kToken) {
      intervals[2 * i] = static_cast<int32_t>(j);
    }
    i -= step == thaitool::kToken ? 0 : 1;
    j -= step == thaitool::kFrame ? 0 : 1;
    if (step != thaitool::kToken) {
      intervals[2 * i + 1] = static_cast<int32_t>(j + 1);
    }
  }
}

// dots [B, I, J] (float or double), inverse norms [B, I] and [B, J], lengths [B] ->
// intervals int32 [B, I, 2] (start, end), end exclusive, (0, 0) in the padding;
// path length int32 [B]; sum of the costs on the path, float64 [B].
std::tuple<Tensor, Tensor, Tensor> path(
    const Tensor& dots, const Tensor& inverse_frame_norms, const Tensor& inverse_token_norms,
    const Tensor& speech_lengths, const Tensor& text_lengths, double band, double prior,
    bool monotonic) {
  STD_TORCH_CHECK(
      dots.dim() == 3 && dots.is_contiguous(), "dtw: dots must be 3-D and contiguous");
  const int64_t pairs = dots.size(0), frames = dots.size(1), tokens = dots.size(2);
  check_shape(inverse_frame_norms, {pairs, frames}, "inverse_frame_norms");
  check_shape(inverse_token_norms, {pairs, tokens}, "inverse_token_norms");
  STD_TORCH_CHECK(band >= 0.0, "dtw: band must not be negative, but is ", band);
  const int64_t* I = checked_lengths(speech_lengths, pairs, frames);
  const int64_t* J = checked_lengths(text_lengths, pairs, tokens);
  for (int64_t b = 0; monotonic && b < pairs; ++b) {
    STD_TORCH_CHECK(
        I[b] == 0 || J[b] <= I[b],
        "dtw: pair ", b, " has ", J[b], " tokens for ", I[b], " frames; monotonic needs J <= I");
  }
  const double* frame_norms = inverse_frame_norms.const_data_ptr<double>();
  const double* token_norms = inverse_token_norms.const_data_ptr<double>();
  Tensor intervals = torch::stable::new_zeros(dots, {pairs, frames, 2}, ScalarType::Int);
  Tensor path_length = torch::stable::new_zeros(dots, {pairs}, ScalarType::Int);
  Tensor path_cost = torch::stable::new_zeros(dots, {pairs}, ScalarType::Double);
  int32_t* interval_data = intervals.mutable_data_ptr<int32_t>();
  int32_t* length_data = path_length.mutable_data_ptr<int32_t>();
  double* cost_data = path_cost.mutable_data_ptr<double>();

  const auto run = [&](const auto* data) {
    torch::stable::parallel_for(0, pairs, grain(frames * tokens), [&](int64_t begin, int64_t end) {
      std::vector<uint8_t> steps;
      for (int64_t b = begin; b < end; ++b) {
        if (I[b] == 0 || J[b] == 0) {
          continue;  // no path: cost 0, length 0, intervals (0, 0)
        }
        const Grid grid = thaitool::make_grid(I[b], J[b], band, prior, monotonic);
        const auto* pair = data + b * frames * tokens;
        steps.resize(I[b] * J[b]);
        fill_steps(
            pair, tokens, frame_norms + b * frames, token_norms + b * tokens, grid, steps.data());
        const PathSum sum = walk_back(
            pair, tokens, frame_norms + b * frames, token_norms + b * tokens, grid, steps.data(),
            interval_data + 2 * b * frames);
        cost_data[b] = sum.cost;
        length_data[b] = sum.length;
      }
    });
  };
  if (dots.scalar_type() == ScalarType::Double) {
    run(dots.const_data_ptr<double>());
  } else {
    run(dots.const_data_ptr<float>());
  }
  return {intervals, path_length, path_cost};
}

// One side of the batch: vectors [B, N, D] and what belongs to them.
template <typename T>
struct Side {
  const T* vectors;
  const double* inverse_norms;
  int64_t rows;
};

// Gradient of  scale * sum_{k in begin..end} (1 - cos(self, other_k))  with respect to `self`:
// -scale / |self| * (sum_k unit_k - (sum_k cos_k) unit_self).
template <typename T>
void row_gradient(
    const T* self, double inverse_self, const T* others, const double* inverse_others,
    int64_t begin, int64_t end, int64_t width, double scale, double* sum, T* out) {
  if (inverse_self == 0.0) {
    return;  // a zero vector: cos is 0 by definition and the gradient stays 0
  }
  std::fill(sum, sum + width, 0.0);
  for (int64_t k = begin; k < end; ++k) {
    const T* other = others + k * width;
    for (int64_t d = 0; d < width; ++d) {
      sum[d] += inverse_others[k] * static_cast<double>(other[d]);
    }
  }
  const double radial = dot(sum, self, width) * inverse_self * inverse_self;
  for (int64_t d = 0; d < width; ++d) {
    out[d] = narrow_to<T>(-scale * inverse_self * (sum[d] - radial * static_cast<double>(self[d])));
  }
}

// Gradient of one side; ranges int32 [B, N, 2] say which rows of the other side each row met.
template <typename T>
void side_gradient(
    const Side<T>& self, const Side<T>& other, const int64_t* lengths, const int32_t* ranges,
    const double* grad, int64_t pairs, int64_t width, T* out) {
  const int64_t work = (self.rows + other.rows) * width;
  torch::stable::parallel_for(0, pairs, grain(work), [&](int64_t begin, int64_t end) {
    std::vector<double> sum(width);
    for (int64_t b = begin; b < end; ++b) {
      if (grad[b] == 0.0) {
        continue;  // zero stays zero, even where the pair holds NaN
      }
      for (int64_t n = 0; n < lengths[b]; ++n) {
        const int64_t row = b * self.rows + n;
        row_gradient(
            self.vectors + row * width, self.inverse_norms[row],
            other.vectors + b * other.rows * width, other.inverse_norms + b * other.rows,
            ranges[2 * row], ranges[2 * row + 1], width, grad[b], sum.data(), out + row * width);
      }
    }
  });
}

// Token intervals of frames [B, I, 2] -> frame intervals of tokens [B, J, 2]; checks the bounds.
std::vector<int32_t> transpose_intervals(
    const int32_t* intervals, const int64_t* I, const int64_t* J, int64_t pairs, int64_t frames,
    int64_t tokens) {
  std::vector<int32_t> ranges(2 * pairs * tokens, 0);
  for (int64_t b = 0; b < pairs; ++b) {
    for (int64_t i = 0; i < I[b]; ++i) {
      const int32_t* interval = intervals + 2 * (b * frames + i);
      STD_TORCH_CHECK(
          interval[0] >= 0 && interval[0] <= interval[1] && interval[1] <= J[b],
          "dtw: interval ", interval[0], "..", interval[1], " of pair ", b, " frame ", i,
          " leaves 0..", J[b]);
      for (int64_t j = interval[0]; j < interval[1]; ++j) {
        int32_t* range = ranges.data() + 2 * (b * tokens + j);
        range[0] = range[1] == 0 ? static_cast<int32_t>(i) : range[0];
        range[1] = static_cast<int32_t>(i + 1);
      }
    }
  }
  return ranges;
}

// Gradients of sum_b grad[b] * path_cost[b]; a side that is not needed comes back with 0 elements.
std::tuple<Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& speech, const Tensor& text,
    const Tensor& inverse_frame_norms, const Tensor& inverse_token_norms, const Tensor& intervals,
    const Tensor& speech_lengths, const Tensor& text_lengths, bool need_speech, bool need_text) {
  STD_TORCH_CHECK(
      speech.dim() == 3 && text.dim() == 3 && speech.scalar_type() == text.scalar_type(),
      "dtw: speech and text must be 3-D and of one dtype");
  const Tensor h = torch::stable::contiguous(speech), e = torch::stable::contiguous(text);
  const Tensor g = torch::stable::contiguous(grad);
  const int64_t pairs = h.size(0), frames = h.size(1), tokens = e.size(1), width = h.size(2);
  check_shape(e, {pairs, tokens, width}, "text");
  check_shape(g, {pairs}, "grad");
  check_shape(inverse_frame_norms, {pairs, frames}, "inverse_frame_norms");
  check_shape(inverse_token_norms, {pairs, tokens}, "inverse_token_norms");
  check_shape(intervals, {pairs, frames, 2}, "intervals");
  const int64_t* I = checked_lengths(speech_lengths, pairs, frames);
  const int64_t* J = checked_lengths(text_lengths, pairs, tokens);
  const int32_t* token_ranges = intervals.const_data_ptr<int32_t>();
  const auto frame_ranges = transpose_intervals(token_ranges, I, J, pairs, frames, tokens);
  const double* scale = g.const_data_ptr<double>();
  const std::vector<int64_t> none{0};
  const std::vector<int64_t> speech_shape{pairs, frames, width}, text_shape{pairs, tokens, width};
  Tensor grad_speech = torch::stable::new_zeros(h, need_speech ? speech_shape : none);
  Tensor grad_text = torch::stable::new_zeros(e, need_text ? text_shape : none);

  THAITOOL_DISPATCH(h.scalar_type(), "dtw_backward", [&] {
    const Side<scalar_t> h_side{
        static_cast<const scalar_t*>(h.const_data_ptr()),
        inverse_frame_norms.const_data_ptr<double>(), frames};
    const Side<scalar_t> e_side{
        static_cast<const scalar_t*>(e.const_data_ptr()),
        inverse_token_norms.const_data_ptr<double>(), tokens};
    if (need_speech) {
      side_gradient(
          h_side, e_side, I, token_ranges, scale, pairs, width,
          static_cast<scalar_t*>(grad_speech.mutable_data_ptr()));
    }
    if (need_text) {
      side_gradient(
          e_side, h_side, J, frame_ranges.data(), scale, pairs, width,
          static_cast<scalar_t*>(grad_text.mutable_data_ptr()));
    }
  });
  return {grad_speech, grad_text};
}

}  // namespace

STABLE_TORCH_LIBRARY(thaitool, m) {
  m.def("dtw_inverse_norms(Tensor vectors, Tensor lengths) -> Tensor");
  m.def(
      "dtw_path(Tensor dots, Tensor inverse_frame_norms, Tensor inverse_token_norms, "
      "Tensor speech_lengths, Tensor text_lengths, float band, float prior, bool monotonic) "
      "-> (Tensor intervals, Tensor path_length, Tensor path_cost)");
  m.def(
      "dtw_backward(Tensor grad, Tensor speech, Tensor text, Tensor inverse_frame_norms, "
      "Tensor inverse_token_norms, Tensor intervals, Tensor speech_lengths, Tensor text_lengths, "
      "bool need_speech, bool need_text) -> (Tensor grad_speech, Tensor grad_text)");
}

STABLE_TORCH_LIBRARY_IMPL(thaitool, CPU, m) {
  m.impl("dtw_inverse_norms", TORCH_BOX(&inverse_norms));
  m.impl("dtw_path", TORCH_BOX(&path));
  m.impl("dtw_backward", TORCH_BOX(&backward));
}
