// The DTW ops on CUDA under torch's stable ABI: checks of shapes, memory, launches, registration. The
// kernels are in the .cuh files, the definitions of the ops and the CPU kernels in dtw.cpp.
//
// Nothing here waits for the device: values of lengths and indices are checked by the kernels.

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <limits>
#include <tuple>
#include <vector>

#include "dtw_kernels.cuh"
#include "gradient_helpers.cuh"
#include "gradient_kernels.cuh"
#include "statistics_kernels.cuh"
#include "tensors.h"

namespace {

using namespace thaitool;
namespace device = thaitool::cuda;

// Launches on the current stream of the device of a tensor.
struct Launcher {
  torch::stable::accelerator::DeviceGuard guard;
  int32_t index;
  cudaStream_t stream;

  explicit Launcher(const Tensor& tensor)
      : guard(tensor.get_device_index()), index(tensor.get_device_index()), stream(nullptr) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &current));
    stream = static_cast<cudaStream_t>(current);
  }

  template <typename Problem>
  void operator()(
      void (*kernel)(Problem), const device::Geometry& geometry, const Problem& problem) const {
    if (geometry.blocks == 0) {
      return;
    }
    STD_TORCH_CHECK(
        geometry.blocks <= std::numeric_limits<int32_t>::max(), "dtw: ", geometry.blocks,
        " blocks are more than CUDA can launch; split the batch");
    if (geometry.shared_bytes > kSharedWithoutAsking) {
      STD_CUDA_CHECK(cudaFuncSetAttribute(
          kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
          static_cast<int>(geometry.shared_bytes)));
    }
    kernel<<<static_cast<unsigned>(geometry.blocks), geometry.threads, geometry.shared_bytes, stream>>>(
        problem);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  // What a block of this device may have.
  int64_t shared_limit() const {
    int bytes = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
    return bytes;
  }

  static constexpr int64_t kSharedWithoutAsking = 48 * 1024;
};

// The device's type of the same bits.
template <typename T>
struct OnDevice {
  using type = T;
};
template <>
struct OnDevice<torch::headeronly::Half> {
  using type = __half;
};
template <>
struct OnDevice<torch::headeronly::BFloat16> {
  using type = __nv_bfloat16;
};

void check_on(const Launcher& launcher, const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(
      tensor.is_cuda() && tensor.get_device_index() == launcher.index, "dtw: ", name,
      " must be on the device of the vectors, cuda:", launcher.index);
}

const int64_t* lengths_on(const Launcher& launcher, const Tensor& lengths, int64_t count) {
  check_on(launcher, lengths, "lengths");
  check_shape(lengths, {count}, "lengths");
  return lengths.const_data_ptr<int64_t>();
}

const int64_t* index_on(
    const Launcher& launcher, const OptionalTensor& index, int64_t speeches, int64_t places,
    int64_t texts) {
  if (!index.has_value()) {
    STD_TORCH_CHECK(
        places == 1 && speeches == texts,
        "dtw: without text_index, speech and text must have one batch size");
    return nullptr;
  }
  check_on(launcher, *index, "text_index");
  check_shape(*index, {speeches, places}, "text_index");
  return index->const_data_ptr<int64_t>();
}

const double* doubles_on(
    const Launcher& launcher, const Tensor& tensor, std::initializer_list<int64_t> shape,
    const char* name) {
  check_on(launcher, tensor, name);
  check_shape(tensor, shape, name);
  return tensor.const_data_ptr<double>();
}

const double* weights_on(
    const Launcher& launcher, const OptionalTensor& weights, int64_t texts, int64_t tokens) {
  return weights.has_value() ? doubles_on(launcher, *weights, {texts, tokens}, "token_weights")
                             : nullptr;
}

template <typename T>
const device::Accumulate<T>* mean_on(
    const Launcher& launcher, const OptionalTensor& mean, int64_t width) {
  if (mean.has_value()) {
    check_on(launcher, *mean, "mean");
  }
  return checked_mean<device::Accumulate<T>>(mean, width);
}

// Whether every row can be read in packs of 16 bytes.
bool packs_fit(const Tensor& vectors) {
  const int64_t size = static_cast<int64_t>(vectors.element_size());
  bool fit = reinterpret_cast<uintptr_t>(vectors.const_data_ptr()) % 16 == 0;
  for (int64_t axis = 0; axis < vectors.dim(); ++axis) {
    const int64_t step = axis + 1 < vectors.dim() ? vectors.stride(axis) : vectors.size(axis);
    fit = fit && step * size % 16 == 0;
  }
  return fit;
}

bool packs_fit(const OptionalTensor& mean) { return !mean.has_value() || packs_fit(*mean); }

std::tuple<Tensor, Tensor> statistics(
    const Tensor& vectors, const OptionalTensor& own_mean, const OptionalTensor& other_mean,
    const Tensor& lengths, bool centre_shift) {
  const Launcher launcher(vectors);
  check_vectors(vectors);
  STD_TORCH_CHECK(own_mean.has_value() == other_mean.has_value(), "dtw: give both means or none");
  const bool centred = own_mean.has_value();
  const int64_t batch = vectors.size(0), rows = vectors.size(1), width = vectors.size(2);
  const int64_t* valid = lengths_on(launcher, lengths, batch);
  const std::vector<int64_t> shape{batch, rows}, none{0, 0};
  Tensor inverse = torch::stable::new_empty(vectors, shape, ScalarType::Double);
  Tensor shift = torch::stable::new_empty(vectors, centred ? shape : none, ScalarType::Double);
  const bool fit = packs_fit(vectors) && packs_fit(own_mean) && packs_fit(other_mean);
  THAITOOL_DISPATCH(vectors.scalar_type(), "dtw_statistics", [&] {
    using T = typename OnDevice<scalar_t>::type;
    device::launch_statistics(
        device::StatisticsProblem<T>{
            static_cast<const T*>(vectors.const_data_ptr()), vectors.stride(0), vectors.stride(1),
            mean_on<T>(launcher, own_mean, width), mean_on<T>(launcher, other_mean, width), valid,
            batch, rows, width, centre_shift, inverse.mutable_data_ptr<double>(),
            centred ? shift.mutable_data_ptr<double>() : nullptr},
        fit, launcher);
  });
  return {inverse, shift};
}

template <typename T>
void run_path(
    device::PathProblem<T>& problem, const Tensor& dots, const Launcher& launcher) {
  problem.dots = dots.const_data_ptr<T>();
  problem.plan = device::plan_path(
      problem.frames, problem.tokens, sizeof(T), problem.drop_cost != nullptr,
      launcher.shared_limit());
  // Scratch comes from torch's allocator and goes back to it: no synchronisation, and a CUDA graph
  // owns it like any other tensor.
  const auto scratch = [&](int64_t per_pair, ScalarType type) {
    const std::vector<int64_t> shape{problem.pairs, per_pair};
    return torch::stable::new_empty(dots, shape, type);
  };
  Tensor bits = scratch(problem.plan.bits_in_shared ? 0 : problem.plan.bit_words, ScalarType::Int);
  const bool strips = problem.plan.strip() < problem.tokens;
  Tensor boundary = scratch(strips ? 2 * problem.frames : 0, ScalarType::Double);
  Tensor spans = scratch(2 * problem.tokens, ScalarType::Int);
  problem.bits = problem.plan.bits_in_shared
                     ? nullptr
                     : reinterpret_cast<uint32_t*>(bits.mutable_data_ptr<int32_t>());
  problem.boundary = strips ? boundary.mutable_data_ptr<double>() : nullptr;
  problem.spans = reinterpret_cast<device::Span*>(spans.mutable_data_ptr<int32_t>());
  device::launch_path(problem, launcher);
}

std::tuple<Tensor, Tensor, Tensor> path(
    const Tensor& dots, const Tensor& inverse_frame_norms, const Tensor& inverse_token_norms,
    const Tensor& frame_shift, const Tensor& token_shift, const OptionalTensor& text_index,
    const Tensor& speech_lengths, const Tensor& text_lengths, const OptionalTensor& drop_cost,
    const OptionalTensor& token_weights, double band, double prior, bool monotonic) {
  const Launcher launcher(dots);
  STD_TORCH_CHECK(dots.dim() == 4, "dtw: dots must be 4-D, but have ", dots.dim(), " axes");
  const int64_t speeches = dots.size(0), places = dots.size(1), frames = dots.size(2);
  const int64_t tokens = dots.size(3), texts = inverse_token_norms.size(0);
  STD_TORCH_CHECK(
      dots.stride(3) == 1 || tokens < 2, "dtw: the last axis of dots must be dense");
  STD_TORCH_CHECK(band >= 0.0, "dtw: band must not be negative, but is ", band);
  STD_TORCH_CHECK(
      frames < (1 << 30) && tokens < (1 << 30), "dtw: ", frames, " frames and ", tokens,
      " tokens are too many for one path");
  const bool centred = frame_shift.size(0) != 0 || token_shift.size(0) != 0;
  Tensor intervals =
      torch::stable::new_empty(dots, {speeches, places, frames, 2}, ScalarType::Int);
  Tensor path_length = torch::stable::new_empty(dots, {speeches, places}, ScalarType::Int);
  Tensor path_cost = torch::stable::new_empty(dots, {speeches, places}, ScalarType::Double);
  const auto fill = [&](auto problem) {
    problem.speech_stride = dots.stride(0);
    problem.place_stride = dots.stride(1);
    problem.frame_stride = dots.stride(2);
    problem.inverse_frame =
        doubles_on(launcher, inverse_frame_norms, {speeches, frames}, "inverse_frame_norms");
    problem.inverse_token =
        doubles_on(launcher, inverse_token_norms, {texts, tokens}, "inverse_token_norms");
    if (centred) {
      problem.frame_shift = doubles_on(launcher, frame_shift, {speeches, frames}, "frame_shift");
      problem.token_shift = doubles_on(launcher, token_shift, {texts, tokens}, "token_shift");
    }
    if (drop_cost.has_value()) {
      problem.drop_cost = doubles_on(launcher, *drop_cost, {speeches, frames}, "drop_cost");
    }
    problem.token_weights = weights_on(launcher, token_weights, texts, tokens);
    problem.text_index = index_on(launcher, text_index, speeches, places, texts);
    problem.speech_lengths = lengths_on(launcher, speech_lengths, speeches);
    problem.text_lengths = lengths_on(launcher, text_lengths, texts);
    problem.pairs = speeches * places;
    problem.places = places;
    problem.frames = frames;
    problem.texts = texts;
    problem.tokens = tokens;
    problem.band = band;
    problem.prior = prior;
    problem.monotonic = monotonic;
    problem.intervals = reinterpret_cast<device::Span*>(intervals.mutable_data_ptr<int32_t>());
    problem.path_length = path_length.mutable_data_ptr<int32_t>();
    problem.path_cost = path_cost.mutable_data_ptr<double>();
    return problem;
  };
  if (dots.scalar_type() == ScalarType::Double) {
    auto problem = fill(device::PathProblem<double>{});
    run_path(problem, dots, launcher);
  } else {
    auto problem = fill(device::PathProblem<float>{});
    run_path(problem, dots, launcher);
  }
  return {intervals, path_length, path_cost};
}

// One side of the batch as a kernel sees it.
template <typename T>
device::RowSide<T> side(
    const Launcher& launcher, const Tensor& vectors, const OptionalTensor& mean,
    const Tensor& inverse_norms, const Tensor& lengths) {
  const int64_t batch = vectors.size(0), rows = vectors.size(1);
  check_on(launcher, vectors, "vectors");
  return {
      static_cast<const T*>(vectors.const_data_ptr()),
      vectors.stride(0),
      vectors.stride(1),
      mean_on<T>(launcher, mean, vectors.size(2)),
      doubles_on(launcher, inverse_norms, {batch, rows}, "inverse_norms"),
      lengths_on(launcher, lengths, batch),
      batch,
      rows};
}

// Gradient of the vectors of `problem.self` and of their mean, each where it has elements.
template <typename T>
void run_gradient(
    device::GradientProblem<T> problem, bool fit, bool of_text, bool need_rows, bool need_mean,
    Tensor& rows_out, Tensor& mean_out, const Launcher& launcher) {
  using A = device::Accumulate<T>;
  if (!need_rows && !need_mean) {
    return;
  }
  const int64_t rows = problem.self.batch * problem.self.rows;
  problem.rows_per_block = device::rows_per_block(rows, need_mean);
  const int64_t parts = device::divide_up(rows, problem.rows_per_block);
  const std::vector<int64_t> partial_shape{need_mean ? parts : 0, problem.width};
  Tensor partial = torch::stable::new_empty(mean_out, partial_shape, accumulate_type<A>());
  problem.out = need_rows ? static_cast<T*>(rows_out.mutable_data_ptr()) : nullptr;
  problem.partial = need_mean ? partial.mutable_data_ptr<A>() : nullptr;
  if (problem.width > 0) {
    device::launch_gradient(problem, fit, of_text, launcher);
  }
  if (need_mean) {
    device::launch_mean(
        device::MeanProblem<A>{
            partial.const_data_ptr<A>(), mean_out.mutable_data_ptr<A>(), parts, problem.width},
        launcher);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& speech, const Tensor& text,
    const OptionalTensor& speech_mean, const OptionalTensor& text_mean,
    const Tensor& inverse_frame_norms, const Tensor& inverse_token_norms, const Tensor& intervals,
    const OptionalTensor& text_index, const Tensor& speech_lengths, const Tensor& text_lengths,
    const OptionalTensor& token_weights, bool need_speech, bool need_text, bool need_speech_mean,
    bool need_text_mean) {
  const Launcher launcher(speech);
  check_vectors(speech);
  check_vectors(text);
  STD_TORCH_CHECK(
      speech.scalar_type() == text.scalar_type() && speech.size(2) == text.size(2),
      "dtw: speech and text must agree in dtype and width");
  STD_TORCH_CHECK(intervals.dim() == 4, "dtw: intervals must be 4-D");
  const int64_t speeches = speech.size(0), frames = speech.size(1), width = speech.size(2);
  const int64_t texts = text.size(0), tokens = text.size(1), places = intervals.size(1);
  check_on(launcher, intervals, "intervals");
  check_shape(intervals, {speeches, places, frames, 2}, "intervals");
  const double* scale = doubles_on(launcher, grad, {speeches, places}, "grad");
  const double* weights = weights_on(launcher, token_weights, texts, tokens);
  const int64_t* index = index_on(launcher, text_index, speeches, places, texts);
  // The pairs of each text, for the text's gradient.
  const bool listed = index != nullptr && (need_text || need_text_mean);
  const std::vector<int64_t> first_shape{listed ? texts + 1 : 0};
  const std::vector<int64_t> pairs_shape{listed ? speeches * places : 0};
  Tensor first_pair = torch::stable::new_empty(speech, first_shape, ScalarType::Long);
  Tensor pairs = torch::stable::new_empty(speech, pairs_shape, ScalarType::Long);
  if (listed) {
    device::launch_pairs(
        device::PairsProblem{
            index, speeches * places, texts, first_pair.mutable_data_ptr<int64_t>(),
            pairs.mutable_data_ptr<int64_t>()},
        launcher);
  }
  const std::vector<int64_t> none{0}, mean_shape{width};
  const std::vector<int64_t> speech_shape{speeches, frames, width}, text_shape{texts, tokens, width};
  const bool fit =
      packs_fit(speech) && packs_fit(text) && packs_fit(speech_mean) && packs_fit(text_mean);
  std::tuple<Tensor, Tensor, Tensor, Tensor> result;
  THAITOOL_DISPATCH(speech.scalar_type(), "dtw_backward", [&] {
    using T = typename OnDevice<scalar_t>::type;
    constexpr ScalarType wide = accumulate_type<scalar_t>();
    Tensor grad_speech = torch::stable::new_empty(speech, need_speech ? speech_shape : none);
    Tensor grad_text = torch::stable::new_empty(text, need_text ? text_shape : none);
    Tensor grad_speech_mean =
        torch::stable::new_empty(speech, need_speech_mean ? mean_shape : none, wide);
    Tensor grad_text_mean =
        torch::stable::new_empty(speech, need_text_mean ? mean_shape : none, wide);
    const auto h = side<T>(launcher, speech, speech_mean, inverse_frame_norms, speech_lengths);
    const auto e = side<T>(launcher, text, text_mean, inverse_token_norms, text_lengths);
    device::GradientProblem<T> problem{
        h, e, scale, weights,
        reinterpret_cast<const device::Interval*>(intervals.const_data_ptr<int32_t>()), index,
        listed ? first_pair.const_data_ptr<int64_t>() : nullptr,
        listed ? pairs.const_data_ptr<int64_t>() : nullptr, places, frames, width, 1, nullptr,
        nullptr};
    run_gradient(
        problem, fit, false, need_speech, need_speech_mean, grad_speech, grad_speech_mean, launcher);
    problem.self = e;
    problem.other = h;
    run_gradient(
        problem, fit, true, need_text, need_text_mean, grad_text, grad_text_mean, launcher);
    result = {grad_speech, grad_text, grad_speech_mean, grad_text_mean};
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(thaitool, CUDA, m) {
  m.impl("dtw_statistics", TORCH_BOX(&statistics));
  m.impl("dtw_path", TORCH_BOX(&path));
  m.impl("dtw_backward", TORCH_BOX(&backward));
}
