// CPU kernels of the DTW alignment loss under torch's stable ABI, and the definitions of its ops:
// statistics of the vectors, and the path. The dot products come from the library GEMM and are an
// argument; thaitool/ops/dtw.py calls it. Gradient: dtw_gradient.cpp; the same on CUDA: dtw_cuda.cu.

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "dtw_cell.h"
#include "dtw_path.h"
#include "rows.h"
#include "tensors.h"

namespace {

using namespace thaitool;

// vectors [N, R, D], means [D], lengths [N] -> float64 [N, R] each:
// 1 / |v - own_mean|, 0 for a zero vector and in the padding, NaN for a vector with NaN or Inf;
// other_mean . v, or . (v - own_mean) if centre_shift; [0, 0] without means.
std::tuple<Tensor, Tensor> statistics(
    const Tensor& vectors, const OptionalTensor& own_mean, const OptionalTensor& other_mean,
    const Tensor& lengths, bool centre_shift) {
  check_vectors(vectors);
  STD_TORCH_CHECK(own_mean.has_value() == other_mean.has_value(), "dtw: give both means or none");
  const bool centred = own_mean.has_value();
  const int64_t batch = vectors.size(0), rows = vectors.size(1), width = vectors.size(2);
  const int64_t* valid = checked_lengths(lengths, batch, rows);
  Tensor inverse = torch::stable::new_zeros(vectors, {batch, rows}, ScalarType::Double);
  const std::vector<int64_t> shape{centred ? batch : 0, centred ? rows : 0};
  Tensor shift = torch::stable::new_zeros(vectors, shape, ScalarType::Double);
  double* inverse_data = inverse.mutable_data_ptr<double>();
  double* shift_data = shift.mutable_data_ptr<double>();
  THAITOOL_DISPATCH(vectors.scalar_type(), "dtw_statistics", [&] {
    using A = Accumulate<scalar_t>;
    const Vectors<scalar_t> in(vectors);
    const A* own = checked_mean<A>(own_mean, width);
    const A* other = checked_mean<A>(other_mean, width);
    torch::stable::parallel_for(0, batch * rows, grain(width), [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) {
        const int64_t n = at / rows, r = at % rows;
        if (r >= valid[n]) {
          continue;
        }
        double square;
        if (centred) {
          const auto found = centred_statistics(
              in.row(n, r), own, other, centre_shift, width);
          square = found.squared_norm;
          shift_data[at] = found.shift;
        } else {
          square = squared_norm(in.row(n, r), width);
        }
        const double norm = std::sqrt(square);
        inverse_data[at] = norm == 0.0         ? 0.0
                           : std::isfinite(norm) ? 1.0 / norm
                                                 : std::numeric_limits<double>::quiet_NaN();
      }
    });
  });
  return {inverse, shift};
}

// One row per pair and place, or null: what an optional table of doubles holds for row n.
const double* table_row(const double* table, int64_t columns, int64_t n) {
  return table == nullptr ? nullptr : table + n * columns;
}

// dots [B, K, I, J] (float or double), inverse norms and shifts [B, I] and [C, J], lengths [B] and
// [C] -> intervals int32 [B, K, I, 2] (start, end), end exclusive, (0, 0) in the padding;
// path length int32 [B, K]; sum of costs on the path, of each cell times its token's weight [C, J]
// if there are weights, float64 [B, K].
std::tuple<Tensor, Tensor, Tensor> path(
    const Tensor& dots, const Tensor& inverse_frame_norms, const Tensor& inverse_token_norms,
    const Tensor& frame_shift, const Tensor& token_shift, const OptionalTensor& text_index,
    const Tensor& speech_lengths, const Tensor& text_lengths, const OptionalTensor& drop_cost,
    const OptionalTensor& token_weights, double band, double prior, bool monotonic) {
  STD_TORCH_CHECK(dots.dim() == 4, "dtw: dots must be 4-D, but have ", dots.dim(), " axes");
  const int64_t speeches = dots.size(0), places = dots.size(1), frames = dots.size(2);
  const int64_t tokens = dots.size(3), texts = inverse_token_norms.size(0);
  STD_TORCH_CHECK(
      dots.stride(3) == 1 || tokens < 2, "dtw: the last axis of dots must be dense");
  check_shape(inverse_frame_norms, {speeches, frames}, "inverse_frame_norms");
  check_shape(inverse_token_norms, {texts, tokens}, "inverse_token_norms");
  const bool centred = frame_shift.size(0) != 0 || token_shift.size(0) != 0;
  if (centred) {
    check_shape(frame_shift, {speeches, frames}, "frame_shift");
    check_shape(token_shift, {texts, tokens}, "token_shift");
  }
  STD_TORCH_CHECK(band >= 0.0, "dtw: band must not be negative, but is ", band);
  const int64_t* I = checked_lengths(speech_lengths, speeches, frames);
  const int64_t* J = checked_lengths(text_lengths, texts, tokens);
  const Texts text_of = checked_texts(text_index, speeches, places, texts);
  for (int64_t at = 0; monotonic && at < speeches * places; ++at) {
    const int64_t b = at / places, m = J[text_of.at(b, at % places)];
    STD_TORCH_CHECK(
        I[b] == 0 || m <= I[b],
        "dtw: pair ", at, " has ", m, " tokens for ", I[b], " frames; monotonic needs J <= I");
  }
  const double* drop = nullptr;
  if (drop_cost.has_value()) {
    check_shape(*drop_cost, {speeches, frames}, "drop_cost");
    drop = drop_cost->const_data_ptr<double>();
  }
  const double* weights = nullptr;
  if (token_weights.has_value()) {
    check_shape(*token_weights, {texts, tokens}, "token_weights");
    weights = token_weights->const_data_ptr<double>();
  }
  const double* frame_norms = inverse_frame_norms.const_data_ptr<double>();
  const double* token_norms = inverse_token_norms.const_data_ptr<double>();
  const double* frame_shifts = centred ? frame_shift.const_data_ptr<double>() : nullptr;
  const double* token_shifts = centred ? token_shift.const_data_ptr<double>() : nullptr;
  Tensor intervals =
      torch::stable::new_zeros(dots, {speeches, places, frames, 2}, ScalarType::Int);
  Tensor path_length = torch::stable::new_zeros(dots, {speeches, places}, ScalarType::Int);
  Tensor path_cost = torch::stable::new_zeros(dots, {speeches, places}, ScalarType::Double);
  int32_t* interval_data = intervals.mutable_data_ptr<int32_t>();
  int32_t* length_data = path_length.mutable_data_ptr<int32_t>();
  double* cost_data = path_cost.mutable_data_ptr<double>();

  const auto run = [&](const auto* data) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(data)>>;
    const auto one_pair = [&](int64_t at, Scratch& scratch) {
      const int64_t b = at / places, k = at % places, c = text_of.at(b, k);
      if (I[b] == 0 || J[c] == 0) {
        return;  // no path: cost 0, length 0, intervals (0, 0)
      }
      const Pair<T> pair{
          data + b * dots.stride(0) + k * dots.stride(1), dots.stride(2),
          frame_norms + b * frames, token_norms + c * tokens,
          table_row(frame_shifts, frames, b), table_row(token_shifts, tokens, c),
          table_row(drop, frames, b), table_row(weights, tokens, c),
          make_grid(I[b], J[c], band, prior, monotonic)};
      scratch.fit(I[b], J[c]);
      fill_steps(pair, scratch);
      const auto sum =
          walk_back(pair, scratch.steps.get(), interval_data + 2 * at * frames);
      cost_data[at] = sum.cost;
      length_data[at] = sum.length;
    };
    torch::stable::parallel_for(
        0, speeches * places, grain(frames * tokens), [&](int64_t begin, int64_t end) {
          Scratch scratch;
          for (int64_t at = begin; at < end; ++at) {
            one_pair(at, scratch);
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

}  // namespace

STABLE_TORCH_LIBRARY(thaitool, m) {
  m.def(
      "dtw_statistics(Tensor vectors, Tensor? own_mean, Tensor? other_mean, Tensor lengths, "
      "bool centre_shift) -> (Tensor inverse_norms, Tensor shift)");
  m.def(
      "dtw_path(Tensor dots, Tensor inverse_frame_norms, Tensor inverse_token_norms, "
      "Tensor frame_shift, Tensor token_shift, Tensor? text_index, Tensor speech_lengths, "
      "Tensor text_lengths, Tensor? drop_cost, Tensor? token_weights, float band, float prior, "
      "bool monotonic) "
      "-> (Tensor intervals, Tensor path_length, Tensor path_cost)");
  m.def(
      "dtw_backward(Tensor grad, Tensor speech, Tensor text, Tensor? speech_mean, "
      "Tensor? text_mean, Tensor inverse_frame_norms, Tensor inverse_token_norms, "
      "Tensor intervals, Tensor? text_index, Tensor speech_lengths, Tensor text_lengths, "
      "Tensor? token_weights, bool need_speech, bool need_text, bool need_speech_mean, bool need_text_mean) "
      "-> (Tensor grad_speech, Tensor grad_text, Tensor grad_speech_mean, Tensor grad_text_mean)");
}

STABLE_TORCH_LIBRARY_IMPL(thaitool, CPU, m) {
  m.impl("dtw_statistics", TORCH_BOX(&statistics));
  m.impl("dtw_path", TORCH_BOX(&path));
}
