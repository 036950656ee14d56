// What the CPU kernels share to read tensors: checks of shapes, lengths and indices, strided vectors.
// No arithmetic of the alignment.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <type_traits>

namespace thaitool {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

#define THAITOOL_DISPATCH(TYPE, NAME, ...)                          \
  THO_DISPATCH_SWITCH(                                              \
      TYPE,                                                         \
      NAME,                                                         \
      THO_DISPATCH_CASE(ScalarType::Double, __VA_ARGS__)            \
      THO_DISPATCH_CASE(ScalarType::Float, __VA_ARGS__)             \
      THO_DISPATCH_CASE(ScalarType::Half, __VA_ARGS__)              \
      THO_DISPATCH_CASE(ScalarType::BFloat16, __VA_ARGS__))

// What sums are made of: double for double, float for the rest.
template <typename T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
constexpr ScalarType accumulate_type() {
  return std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
}

// Items per task: waking a thread costs more than a small one.
inline int64_t grain(int64_t work_per_item) {
  constexpr int64_t kWorkPerTask = 1 << 15;
  return std::max<int64_t>(1, kWorkPerTask / std::max<int64_t>(1, work_per_item));
}

inline void check_shape(const Tensor& tensor, std::initializer_list<int64_t> shape, const char* name) {
  bool same = tensor.dim() == static_cast<int64_t>(shape.size()) && tensor.is_contiguous();
  int64_t axis = 0;
  for (const int64_t size : shape) {
    same = same && tensor.size(axis++) == size;
  }
  STD_TORCH_CHECK(same, "dtw: ", name, " has the wrong shape or is not contiguous");
}

// Lengths index memory below, so they are checked here too; the sentence for users is in dtw.py.
inline const int64_t* checked_lengths(const Tensor& lengths, int64_t pairs, int64_t limit) {
  check_shape(lengths, {pairs}, "lengths");
  const int64_t* data = lengths.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < pairs; ++b) {
    STD_TORCH_CHECK(
        data[b] >= 0 && data[b] <= limit,
        "dtw: length ", data[b], " of pair ", b, " is not in 0..", limit);
  }
  return data;
}

// Which text speech b meets at place k: the b-th, or what the index says.
struct Texts {
  const int64_t* index;
  int64_t per_speech;

  int64_t at(int64_t b, int64_t k) const { return index == nullptr ? b : index[b * per_speech + k]; }
};

inline Texts checked_texts(const OptionalTensor& index, int64_t speeches, int64_t places, int64_t texts) {
  if (!index.has_value()) {
    STD_TORCH_CHECK(
        places == 1 && speeches == texts,
        "dtw: without text_index, speech and text must have one batch size");
    return {nullptr, 1};
  }
  check_shape(*index, {speeches, places}, "text_index");
  const int64_t* data = index->const_data_ptr<int64_t>();
  for (int64_t at = 0; at < speeches * places; ++at) {
    STD_TORCH_CHECK(
        data[at] >= 0 && data[at] < texts,
        "dtw: text_index ", data[at], " at place ", at, " is not in 0..", texts - 1);
  }
  return {data, places};
}

// Vectors [N, R, D] whose last axis is dense.
template <typename T>
struct Vectors {
  const T* data;
  int64_t batch_stride;
  int64_t row_stride;

  explicit Vectors(const Tensor& tensor)
      : data(static_cast<const T*>(tensor.const_data_ptr())),
        batch_stride(tensor.stride(0)),
        row_stride(tensor.stride(1)) {}

  const T* row(int64_t n, int64_t r) const { return data + n * batch_stride + r * row_stride; }
};

inline void check_vectors(const Tensor& vectors) {
  STD_TORCH_CHECK(vectors.dim() == 3, "dtw: vectors must be 3-D, but have ", vectors.dim(), " axes");
  STD_TORCH_CHECK(
      vectors.stride(2) == 1 || vectors.size(2) < 2, "dtw: the last axis of vectors must be dense");
}

template <typename A>
const A* checked_mean(const OptionalTensor& mean, int64_t width) {
  if (!mean.has_value()) {
    return nullptr;
  }
  check_shape(*mean, {width}, "mean");
  return mean->const_data_ptr<A>();
}

}  // namespace thaitool
