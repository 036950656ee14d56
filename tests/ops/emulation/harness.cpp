// Calls the emulated CUDA kernels from Python (ctypes) on the CPU. Decides nothing: kernels and launch
// geometry are those of thaitool/ops/csrc.
#include "harness.h"

namespace {

using namespace thaitool::cuda;

struct Launch {
  std::mt19937_64& random;

  template <typename Problem>
  void operator()(void (*kernel)(Problem), const Geometry& geometry, const Problem& problem) const {
    emulation::launch(
        kernel, geometry.blocks, geometry.threads, geometry.shared_bytes, problem, random);
  }
};

// Calls work() and turns what it throws into a sentence.
template <typename Work>
int guarded(char* problem, const Work& work) {
  try {
    work();
    return 0;
  } catch (const std::exception& error) {
    std::strncpy(problem, error.what(), kProblemBytes - 1);
    problem[kProblemBytes - 1] = '\0';
    return 1;
  }
}

template <typename Work>
void with_type(int64_t dtype, const Work& work) {
  switch (dtype) {
    case 0: return work(double{});
    case 1: return work(float{});
#if !defined(THAITOOL_WIDE_ONLY)  // what the sanitizers' program leaves out: it takes long to compile
    case 2: return work(__half{});
    case 3: return work(__nv_bfloat16{});
#endif
    default: throw std::runtime_error("emulation: no such dtype");
  }
}

template <typename T>
void run_path(const PathCall& call) {
  PathProblem<T> problem{};
  problem.dots = static_cast<const T*>(call.dots);
  problem.speech_stride = call.speech_stride;
  problem.place_stride = call.place_stride;
  problem.frame_stride = call.frame_stride;
  problem.inverse_frame = call.inverse_frame;
  problem.inverse_token = call.inverse_token;
  problem.frame_shift = call.frame_shift;
  problem.token_shift = call.token_shift;
  problem.drop_cost = call.drop_cost;
  problem.token_weights = call.token_weights;
  problem.text_index = call.text_index;
  problem.speech_lengths = call.speech_lengths;
  problem.text_lengths = call.text_lengths;
  problem.pairs = call.speeches * call.places;
  problem.places = call.places;
  problem.frames = call.frames;
  problem.texts = call.texts;
  problem.tokens = call.tokens;
  problem.band = call.band;
  problem.prior = call.prior;
  problem.monotonic = call.monotonic != 0;
  const bool drop = call.drop_cost != nullptr;
  problem.plan = plan_path(call.frames, call.tokens, sizeof(T), drop, call.shared_limit);
  if (call.columns_per_lane != 0) {
    problem.plan.columns_per_lane = static_cast<int>(call.columns_per_lane);
    problem.plan.warp_bytes =
        shared_bytes_per_warp(problem.plan.columns_per_lane, sizeof(T), drop);
  }
  if (call.warps != 0) {
    problem.plan.warps = static_cast<int>(call.warps);
  }
  // Scratch of the exact size, filled with what a kernel must not read.
  std::vector<uint32_t> bits(problem.plan.bit_words * problem.pairs, 0xa5a5a5a5u);
  std::vector<double> boundary(2 * call.frames * problem.pairs, std::nan(""));
  std::vector<Span> spans(call.tokens * problem.pairs, Span{-7, -7});
  problem.bits = problem.plan.bits_in_shared ? nullptr : bits.data();
  problem.boundary = problem.plan.strip() < call.tokens ? boundary.data() : nullptr;
  problem.spans = spans.data();
  problem.intervals = static_cast<Span*>(call.intervals);
  problem.path_length = call.path_length;
  problem.path_cost = call.path_cost;
  std::mt19937_64 random(call.seed);
  launch_path(problem, Launch{random});
}

template <typename T>
void run_statistics(const StatisticsCall& call) {
  using A = Accumulate<T>;
  std::mt19937_64 random(call.seed);
  launch_statistics(
      StatisticsProblem<T>{
          static_cast<const T*>(call.vectors), call.batch_stride, call.row_stride,
          static_cast<const A*>(call.own_mean), static_cast<const A*>(call.other_mean),
          call.lengths, call.batch, call.rows, call.width, call.centre_shift != 0,
          call.inverse_norms, call.shift},
      call.aligned != 0, Launch{random});
}

template <typename T>
void run_gradient(const GradientCall& call) {
  using A = Accumulate<T>;
  std::mt19937_64 random(call.seed);
  const Launch launch{random};
  const RowSide<T> speech{
      static_cast<const T*>(call.speech), call.speech_batch_stride, call.speech_row_stride,
      static_cast<const A*>(call.speech_mean), call.inverse_frame, call.speech_lengths,
      call.speeches, call.frames};
  const RowSide<T> text{
      static_cast<const T*>(call.text), call.text_batch_stride, call.text_row_stride,
      static_cast<const A*>(call.text_mean), call.inverse_token, call.text_lengths, call.texts,
      call.tokens};
  const int64_t pairs = call.speeches * call.places;
  std::vector<int64_t> first_pair(call.texts + 1, -1), ordered(pairs, -1);
  if (call.text_index != nullptr) {
    launch_pairs(
        PairsProblem{call.text_index, pairs, call.texts, first_pair.data(), ordered.data()}, launch);
  }
  for (const bool of_text : {false, true}) {
    const RowSide<T>& self = of_text ? text : speech;
    void* out = of_text ? call.grad_text : call.grad_speech;
    void* mean = of_text ? call.grad_text_mean : call.grad_speech_mean;
    if (out == nullptr && mean == nullptr) {
      continue;
    }
    const int64_t rows = self.batch * self.rows;
    const int64_t each = rows_per_block(rows, mean != nullptr);
    std::vector<A> partial(divide_up(rows, each) * call.width, A(NAN));
    launch_gradient(
        GradientProblem<T>{
            self, of_text ? speech : text, call.grad, call.token_weights,
            static_cast<const Interval*>(call.intervals), call.text_index, first_pair.data(),
            ordered.data(), call.places, call.frames, call.width, each, static_cast<T*>(out),
            mean == nullptr ? nullptr : partial.data()},
        call.aligned != 0, of_text, launch);
    if (mean != nullptr) {
      launch_mean(
          MeanProblem<A>{
              partial.data(), static_cast<A*>(mean), divide_up(rows, each), call.width},
          launch);
    }
  }
}

}  // namespace

extern "C" {

int emulate_path(const PathCall* call, char* problem) {
  return guarded(problem, [&] {
    with_type(call->dtype, [&](auto type) {
      if constexpr (std::is_floating_point_v<decltype(type)>) {
        run_path<decltype(type)>(*call);
      } else {
        throw std::runtime_error("emulation: dots are float or double");
      }
    });
  });
}

int emulate_statistics(const StatisticsCall* call, char* problem) {
  return guarded(problem, [&] {
    with_type(call->dtype, [&](auto type) { run_statistics<decltype(type)>(*call); });
  });
}

int emulate_gradient(const GradientCall* call, char* problem) {
  return guarded(problem, [&] {
    with_type(call->dtype, [&](auto type) { run_gradient<decltype(type)>(*call); });
  });
}

// Shared memory of a block and whether the steps of a pair are in it, as the launch decides.
int64_t planned_shared_bytes(
    int64_t frames, int64_t tokens, int64_t item_size, int64_t drop, int64_t shared_limit) {
  return plan_path(frames, tokens, item_size, drop != 0, shared_limit).geometry(1).shared_bytes;
}

}  // extern "C"
