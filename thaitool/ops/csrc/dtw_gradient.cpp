// Gradient of the DTW alignment loss on the CPU. Sparse: a frame's tokens are one interval, so a row
// of the gradient reads one row of the input and the few rows it met, and is written once.

#include <cmath>
#include <tuple>
#include <vector>

#include "rows.h"
#include "tensors.h"

namespace {

using namespace thaitool;

// A batch of paths as backward needs it.
struct Paths {
  const int32_t* intervals;  // [B, K, I, 2]
  const double* grad;        // [B, K]
  const double* weights;     // [C, J], or null
  Texts text_of;
  const int64_t* I;
  const int64_t* J;
  int64_t speeches, places, frames, texts, tokens;

  // Gradient of the cells of pair `at` on token j of text c.
  double cell_grad(int64_t at, int64_t c, int64_t j) const {
    return weights == nullptr ? grad[at] : grad[at] * weights[c * tokens + j];
  }
  const int32_t* interval(int64_t at, int64_t i) const { return intervals + 2 * (at * frames + i); }
};

// Intervals index memory below. Those of a pair with NaN have no meaning but are in bounds.
void check_intervals(const Paths& paths) {
  for (int64_t at = 0; at < paths.speeches * paths.places; ++at) {
    const int64_t b = at / paths.places, c = paths.text_of.at(b, at % paths.places);
    for (int64_t i = 0; i < paths.I[b]; ++i) {
      const int32_t* interval = paths.interval(at, i);
      STD_TORCH_CHECK(
          interval[0] >= 0 && interval[0] <= interval[1] && interval[1] <= paths.J[c],
          "dtw: interval ", interval[0], "..", interval[1], " of pair ", at, " frame ", i,
          " leaves 0..", paths.J[c]);
    }
  }
}

// The paths from the side of the texts: which pairs met text c, and between which frames token j
// was met in each of them. Frames in between may have been dropped.
struct Transposed {
  std::vector<int64_t> first_pair;    // [C + 1], into `pairs`
  std::vector<int64_t> pairs;         // [B * K], ordered by text, then by pair
  std::vector<int32_t> frame_ranges;  // [B * K, J, 2]
};

Transposed transpose(const Paths& paths) {
  const int64_t count = paths.speeches * paths.places;
  Transposed found{
      std::vector<int64_t>(paths.texts + 1, 0), std::vector<int64_t>(count),
      std::vector<int32_t>(2 * count * paths.tokens, 0)};
  const auto text_at = [&](int64_t at) { return paths.text_of.at(at / paths.places, at % paths.places); };
  for (int64_t at = 0; at < count; ++at) {
    ++found.first_pair[text_at(at) + 1];
  }
  for (int64_t c = 0; c < paths.texts; ++c) {
    found.first_pair[c + 1] += found.first_pair[c];
  }
  std::vector<int64_t> next(found.first_pair.begin(), found.first_pair.end() - 1);
  for (int64_t at = 0; at < count; ++at) {
    found.pairs[next[text_at(at)]++] = at;
    for (int64_t i = 0; i < paths.I[at / paths.places]; ++i) {
      const int32_t* interval = paths.interval(at, i);
      for (int64_t j = interval[0]; j < interval[1]; ++j) {
        int32_t* range = found.frame_ranges.data() + 2 * (at * paths.tokens + j);
        range[0] = range[1] == 0 ? static_cast<int32_t>(i) : range[0];
        range[1] = static_cast<int32_t>(i + 1);
      }
    }
  }
  return found;
}

// A mean [D] in the type of the sums, and in double; both null without one.
template <typename A>
struct Mean {
  const A* narrow;
  std::vector<double> wide;

  Mean(const OptionalTensor& mean, int64_t width) : narrow(checked_mean<A>(mean, width)) {
    if (narrow != nullptr) {
      wide.assign(narrow, narrow + width);
    }
  }

  template <typename S>
  const S* as() const {
    if constexpr (std::is_same_v<S, A>) {
      return narrow;
    } else {
      return narrow == nullptr ? nullptr : wide.data();
    }
  }
};

// One side of the batch.
template <typename T>
struct Side {
  Vectors<T> vectors;
  Mean<Accumulate<T>> mean;
  const double* inverse_norms;  // [N, R]
  const int64_t* lengths;
  int64_t batch, rows;
};

// A row of the other side, and what it counts.
template <typename T>
struct Partner {
  const T* row;
  double weight;
};

// float is enough except near its ends (and for NaN it does not matter).
inline bool is_extreme(double value) {
  const double size = std::fabs(value);
  return value != 0.0 && !(size >= 1e-18 && size <= 1e18);
}

// Gradient of one row with respect to the vector `self`:
//   -1 / |self| * (T - (T . unit_self) unit_self),   T = sum of weight * (other - mean_other).
template <typename T, typename A>
void row_gradient(
    const T* self, const A* self_mean, double inverse, const std::vector<Partner<T>>& partners,
    const A* other_mean, int64_t width, std::vector<A>& sum, T* out, double* mean_sum) {
  const A* met = sum.data();
  double scale = inverse;
  const bool sum_is_row =
      std::is_same_v<T, A> && partners.size() == 1 && other_mean == nullptr;
  if (sum_is_row) {
    // The usual frame lies on one token: that row is read in place of the sum, unweighted.
    met = reinterpret_cast<const A*>(partners[0].row);
    scale *= partners[0].weight;
  } else {
    bool first = true;
    for (const Partner<T>& partner : partners) {
      add_scaled(
          sum.data(), partner.row, other_mean, static_cast<A>(partner.weight), first, width);
      first = false;
    }
  }
  const double radial =
      static_cast<double>(dot_centred(met, self, self_mean, width)) * inverse * inverse;
  write_gradient(
      met, self, self_mean, static_cast<A>(scale), static_cast<A>(radial), out, mean_sum, width);
}

// Gradients of one side: of the vectors [N, R, D] if `out` is not null, and the sum over all rows
// per item of the batch [N, D] if `sums` is not null. `meet(n, r, partners)` appends all that row r
// of item n met, always in one order.
template <typename T, typename Meet>
void side_gradient(
    const Side<T>& self, const Mean<Accumulate<T>>& other_mean, int64_t width, const Meet& meet,
    T* out, double* sums) {
  using A = Accumulate<T>;
  // Sums belong to an item, so an item is then one task; otherwise tasks are smaller.
  const int64_t step = sums != nullptr ? std::max<int64_t>(1, self.rows) : 64;
  const int64_t blocks = (self.rows + step - 1) / step;
  torch::stable::parallel_for(
      0, self.batch * blocks, grain(step * width), [&](int64_t begin, int64_t end) {
        std::vector<A> sum(width);
        std::vector<double> wide_sum;
        std::vector<Partner<T>> partners;
        for (int64_t task = begin; task < end; ++task) {
          const int64_t n = task / blocks, from = task % blocks * step;
          for (int64_t r = from; r < std::min(from + step, self.rows); ++r) {
            const double inverse = self.inverse_norms[n * self.rows + r];
            partners.clear();
            if (r < self.lengths[n] && inverse != 0.0) {
              meet(n, r, partners);
            }
            T* row_out = out == nullptr ? nullptr : out + (n * self.rows + r) * width;
            if (partners.empty()) {
              if (row_out != nullptr) {
                std::fill(row_out, row_out + width, T(0));
              }
              continue;
            }
            const auto write = [&](auto& space) {
              using S = typename std::remove_reference_t<decltype(space)>::value_type;
              space.resize(width);
              row_gradient(
                  self.vectors.row(n, r), self.mean.template as<S>(), inverse, partners,
                  other_mean.template as<S>(), width, space, row_out,
                  sums == nullptr ? nullptr : sums + n * width);
            };
            // decided row by row, so that a row's bits do not depend on the rest of the batch
            const bool wide = is_extreme(inverse) ||
                              std::any_of(partners.begin(), partners.end(), [](const auto& partner) {
                                return is_extreme(partner.weight);
                              });
            if (wide) {
              write(wide_sum);
            } else {
              write(sum);
            }
          }
        }
      });
}

// Gradient of the mean of one side [D]: minus the sum of the rows' gradients, item by item.
template <typename T>
void write_mean_gradient(const std::vector<double>& sums, int64_t batch, int64_t width, Tensor& out) {
  auto* data = out.mutable_data_ptr<Accumulate<T>>();
  std::vector<double> total(width, 0.0);
  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t d = 0; d < width; ++d) {
      total[d] += sums[n * width + d];
    }
  }
  for (int64_t d = 0; d < width; ++d) {
    data[d] = static_cast<Accumulate<T>>(-total[d]);
  }
}

// What backward writes; a gradient that is not needed has 0 elements.
struct Gradients {
  Tensor speech, text, speech_mean, text_mean;
  bool need_speech, need_text, need_speech_mean, need_text_mean;
};

template <typename T>
void both_gradients(
    const Tensor& speech, const Tensor& text, const OptionalTensor& speech_mean,
    const OptionalTensor& text_mean, const double* inverse_frame, const double* inverse_token,
    const Paths& paths, Gradients& grads) {
  const int64_t width = speech.size(2);
  const Side<T> h{
      Vectors<T>(speech), {speech_mean, width}, inverse_frame, paths.I, paths.speeches,
      paths.frames};
  const Side<T> e{
      Vectors<T>(text), {text_mean, width}, inverse_token, paths.J, paths.texts, paths.tokens};
  if (grads.need_speech || grads.need_speech_mean) {
    std::vector<double> sums(grads.need_speech_mean ? h.batch * width : 0, 0.0);
    const auto meet = [&](int64_t b, int64_t i, std::vector<Partner<T>>& partners) {
      for (int64_t k = 0; k < paths.places; ++k) {
        const int64_t at = b * paths.places + k, c = paths.text_of.at(b, k);
        const int32_t* interval = paths.interval(at, i);
        // zero stays zero, even where the pair holds NaN
        for (int64_t j = interval[0]; paths.grad[at] != 0.0 && j < interval[1]; ++j) {
          partners.push_back(
              {e.vectors.row(c, j),
               paths.cell_grad(at, c, j) * inverse_token[c * paths.tokens + j]});
        }
      }
    };
    side_gradient(
        h, e.mean, width, meet,
        grads.need_speech ? static_cast<T*>(grads.speech.mutable_data_ptr()) : nullptr,
        grads.need_speech_mean ? sums.data() : nullptr);
    if (grads.need_speech_mean) {
      write_mean_gradient<T>(sums, h.batch, width, grads.speech_mean);
    }
  }
  if (grads.need_text || grads.need_text_mean) {
    const Transposed met = transpose(paths);
    std::vector<double> sums(grads.need_text_mean ? e.batch * width : 0, 0.0);
    const auto meet = [&](int64_t c, int64_t j, std::vector<Partner<T>>& partners) {
      for (int64_t p = met.first_pair[c]; p < met.first_pair[c + 1]; ++p) {
        const int64_t at = met.pairs[p], b = at / paths.places;
        const int32_t* range = met.frame_ranges.data() + 2 * (at * paths.tokens + j);
        for (int64_t i = range[0]; paths.grad[at] != 0.0 && i < range[1]; ++i) {
          const int32_t* interval = paths.interval(at, i);
          if (interval[0] <= j && j < interval[1]) {
            partners.push_back(
                {h.vectors.row(b, i),
                 paths.cell_grad(at, c, j) * inverse_frame[b * paths.frames + i]});
          }
        }
      }
    };
    side_gradient(
        e, h.mean, width, meet,
        grads.need_text ? static_cast<T*>(grads.text.mutable_data_ptr()) : nullptr,
        grads.need_text_mean ? sums.data() : nullptr);
    if (grads.need_text_mean) {
      write_mean_gradient<T>(sums, e.batch, width, grads.text_mean);
    }
  }
}

// Gradients of sum over pairs of grad[b, k] * path_cost[b, k], the paths held constant; the costs
// weighted if there are weights.
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& speech, const Tensor& text,
    const OptionalTensor& speech_mean, const OptionalTensor& text_mean,
    const Tensor& inverse_frame_norms, const Tensor& inverse_token_norms, const Tensor& intervals,
    const OptionalTensor& text_index, const Tensor& speech_lengths, const Tensor& text_lengths,
    const OptionalTensor& token_weights, bool need_speech, bool need_text, bool need_speech_mean,
    bool need_text_mean) {
  check_vectors(speech);
  check_vectors(text);
  STD_TORCH_CHECK(
      speech.scalar_type() == text.scalar_type() && speech.size(2) == text.size(2),
      "dtw: speech and text must agree in dtype and width");
  STD_TORCH_CHECK(intervals.dim() == 4, "dtw: intervals must be 4-D");
  const int64_t speeches = speech.size(0), frames = speech.size(1), width = speech.size(2);
  const int64_t texts = text.size(0), tokens = text.size(1), places = intervals.size(1);
  check_shape(grad, {speeches, places}, "grad");
  check_shape(inverse_frame_norms, {speeches, frames}, "inverse_frame_norms");
  check_shape(inverse_token_norms, {texts, tokens}, "inverse_token_norms");
  check_shape(intervals, {speeches, places, frames, 2}, "intervals");
  const double* weights = nullptr;
  if (token_weights.has_value()) {
    check_shape(*token_weights, {texts, tokens}, "token_weights");
    weights = token_weights->const_data_ptr<double>();
  }
  const Paths paths{
      intervals.const_data_ptr<int32_t>(), grad.const_data_ptr<double>(), weights,
      checked_texts(text_index, speeches, places, texts),
      checked_lengths(speech_lengths, speeches, frames),
      checked_lengths(text_lengths, texts, tokens),
      speeches, places, frames, texts, tokens};
  check_intervals(paths);
  const std::vector<int64_t> none{0}, mean_shape{width};
  const std::vector<int64_t> speech_shape{speeches, frames, width}, text_shape{texts, tokens, width};
  std::tuple<Tensor, Tensor, Tensor, Tensor> result;
  THAITOOL_DISPATCH(speech.scalar_type(), "dtw_backward", [&] {
    constexpr ScalarType wide = accumulate_type<scalar_t>();
    // every element is written below, and memory that is new costs as much as the arithmetic
    Gradients grads{
        torch::stable::new_empty(speech, need_speech ? speech_shape : none),
        torch::stable::new_empty(text, need_text ? text_shape : none),
        torch::stable::new_empty(speech, need_speech_mean ? mean_shape : none, wide),
        torch::stable::new_empty(speech, need_text_mean ? mean_shape : none, wide),
        need_speech, need_text, need_speech_mean, need_text_mean};
    both_gradients<scalar_t>(
        speech, text, speech_mean, text_mean, inverse_frame_norms.const_data_ptr<double>(),
        inverse_token_norms.const_data_ptr<double>(), paths, grads);
    result = {grads.speech, grads.text, grads.speech_mean, grads.text_mean};
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(thaitool, CPU, m) { m.impl("dtw_backward", TORCH_BOX(&backward)); }
