// A program for the address and undefined-behaviour sanitizers: every input, output and scratch of the
// emulated kernels is a heap block of the exact size, so that a read or write past it stops the
// program. Paths are compared with the CPU's (dtw_path.h); the numbers are tested from Python.
#include "harness.h"

#include <cstdio>
#include <cstdlib>

#include "dtw_path.h"

namespace {

using Random = std::mt19937_64;

int64_t up_to(Random& random, int64_t limit) {
  return static_cast<int64_t>(random() % static_cast<uint64_t>(limit + 1));
}

// Exactly `count` numbers; std::vector may hold more.
template <typename T>
struct Exact {
  std::unique_ptr<T[]> data;
  int64_t count;

  explicit Exact(int64_t size) : data(new T[size]()), count(size) {}
  Exact(int64_t size, T value) : Exact(size) { std::fill(data.get(), data.get() + size, value); }
  T* get() const { return data.get(); }
  T& operator[](int64_t at) const { return data[at]; }
};

void require(bool condition, const char* sentence, uint64_t seed) {
  if (!condition) {
    std::fprintf(stderr, "seed %llu: %s\n", static_cast<unsigned long long>(seed), sentence);
    std::exit(1);
  }
}

// One random problem of B speeches with K texts each.
struct Case {
  int64_t speeches, places, frames, texts, tokens;
  Exact<int64_t> index, I, J;
  Exact<double> inverse_frame, inverse_token, frame_shift, token_shift, drop, weights;
  bool centred, may_drop, weighted;

  static int64_t size(Random& random) {
    constexpr int64_t kSizes[] = {1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65};
    return kSizes[random() % 14];
  }

  explicit Case(Random& random)
      : speeches(1 + up_to(random, 1)), places(1 + up_to(random, 1)), frames(size(random)),
        texts(1 + up_to(random, 2)), tokens(size(random)), index(speeches * places), I(speeches),
        J(texts), inverse_frame(speeches * frames), inverse_token(texts * tokens),
        frame_shift(speeches * frames), token_shift(texts * tokens), drop(speeches * frames),
        weights(texts * tokens), centred(random() % 2 != 0), may_drop(random() % 2 != 0),
        weighted(random() % 2 != 0) {
    const auto fill = [&](const Exact<double>& values) {
      for (int64_t at = 0; at < values.count; ++at) {
        values[at] = static_cast<double>(1 + up_to(random, 15)) / 16.0;
      }
    };
    for (int64_t at = 0; at < index.count; ++at) {
      index[at] = up_to(random, texts - 1);
    }
    for (int64_t b = 0; b < speeches; ++b) {
      I[b] = random() % 2 != 0 ? frames : up_to(random, frames);
    }
    for (int64_t c = 0; c < texts; ++c) {
      J[c] = random() % 2 != 0 ? tokens : up_to(random, tokens);
    }
    fill(inverse_frame);
    fill(inverse_token);
    fill(frame_shift);
    fill(token_shift);
    fill(drop);
    fill(weights);
  }
};

template <typename T>
Exact<int32_t> check_path(const Case& given, Random& random, uint64_t seed) {
  const int64_t pairs = given.speeches * given.places;
  Exact<T> dots(pairs * given.frames * given.tokens);
  for (int64_t at = 0; at < dots.count; ++at) {
    dots[at] = static_cast<T>(up_to(random, 8)) / T(4);
  }
  Exact<int32_t> intervals(2 * pairs * given.frames, -7), length(pairs, -7);
  Exact<double> cost(pairs, -7.0);
  const double band = random() % 2 != 0 ? 1.0 : 0.15, prior = random() % 2 != 0 ? 0.0 : 0.5;
  PathCall call{};
  call.dtype = std::is_same_v<T, double> ? 0 : 1;
  call.seed = seed;
  call.dots = dots.get();
  call.frame_stride = given.tokens;
  call.place_stride = given.frames * given.tokens;
  call.speech_stride = given.places * call.place_stride;
  call.inverse_frame = given.inverse_frame.get();
  call.inverse_token = given.inverse_token.get();
  call.frame_shift = given.centred ? given.frame_shift.get() : nullptr;
  call.token_shift = given.centred ? given.token_shift.get() : nullptr;
  call.drop_cost = given.may_drop ? given.drop.get() : nullptr;
  call.token_weights = given.weighted ? given.weights.get() : nullptr;
  call.text_index = given.index.get();
  call.speech_lengths = given.I.get();
  call.text_lengths = given.J.get();
  call.speeches = given.speeches;
  call.places = given.places;
  call.frames = given.frames;
  call.texts = given.texts;
  call.tokens = given.tokens;
  call.band = band;
  call.prior = prior;
  call.shared_limit = random() % 2 != 0 ? 48 * 1024 : 18 * 1024;
  call.columns_per_lane = up_to(random, 2);
  call.intervals = intervals.get();
  call.path_length = length.get();
  call.path_cost = cost.get();
  char problem[kProblemBytes];
  require(emulate_path(&call, problem) == 0, problem, seed);
  for (int64_t at = 0; at < pairs; ++at) {
    const int64_t b = at / given.places, c = given.index[at], n = given.I[b], m = given.J[c];
    std::vector<int32_t> wanted(2 * given.frames, 0);
    thaitool::PathSum sum{0.0, 0};
    if (n > 0 && m > 0) {
      const thaitool::Pair<T> pair{
          dots.get() + at * call.place_stride, given.tokens,
          given.inverse_frame.get() + b * given.frames, given.inverse_token.get() + c * given.tokens,
          given.centred ? given.frame_shift.get() + b * given.frames : nullptr,
          given.centred ? given.token_shift.get() + c * given.tokens : nullptr,
          given.may_drop ? given.drop.get() + b * given.frames : nullptr,
          given.weighted ? given.weights.get() + c * given.tokens : nullptr,
          thaitool::make_grid(n, m, band, prior, false)};
      thaitool::Scratch scratch;
      scratch.fit(n, m);
      thaitool::fill_steps(pair, scratch);
      sum = thaitool::walk_back(pair, scratch.steps.get(), wanted.data());
    }
    require(
        std::equal(wanted.begin(), wanted.end(), intervals.get() + 2 * at * given.frames),
        "intervals differ from the CPU's", seed);
    require(length[at] == sum.length && cost[at] == sum.cost, "sums differ from the CPU's", seed);
  }
  return intervals;
}

// Runs statistics and gradient where every byte outside is guarded; `aligned` widths fill packs.
void run_rows(const Case& given, const Exact<int32_t>& intervals, Random& random, uint64_t seed) {
  constexpr int64_t kWidths[] = {1, 3, 8, 40, 72};
  const int64_t width = kWidths[random() % 5], pairs = given.speeches * given.places;
  Exact<float> speech(given.speeches * given.frames * width), text(given.texts * given.tokens * width);
  Exact<float> u(width, 0.25f), v(width, -0.5f), grad_speech(speech.count), grad_text(text.count);
  Exact<float> grad_u(width), grad_v(width);
  for (const Exact<float>* side : {&speech, &text}) {
    for (int64_t at = 0; at < side->count; ++at) {
      (*side)[at] = static_cast<float>(up_to(random, 16)) / 4.0f - 2.0f;
    }
  }
  Exact<double> inverse(given.speeches * given.frames), shift(inverse.count), grad(pairs, 1.0);
  const int64_t aligned = width % 4 == 0 ? 1 : 0;
  char problem[kProblemBytes];
  const StatisticsCall statistics{
      1, seed, speech.get(), given.frames * width, width, u.get(), v.get(), given.I.get(),
      given.speeches, given.frames, width, 0, aligned, inverse.get(), shift.get()};
  require(emulate_statistics(&statistics, problem) == 0, problem, seed);
  const GradientCall gradient{
      1, seed, grad.get(), speech.get(), text.get(), given.frames * width, width,
      given.tokens * width, width, u.get(), v.get(), inverse.get(), given.inverse_token.get(),
      intervals.get(), given.index.get(), given.I.get(), given.J.get(),
      given.weighted ? given.weights.get() : nullptr, given.speeches, given.places, given.frames,
      given.texts, given.tokens, width, aligned, grad_speech.get(), grad_text.get(), grad_u.get(),
      grad_v.get()};
  require(emulate_gradient(&gradient, problem) == 0, problem, seed);
}

}  // namespace

int main(int count, char** arguments) {
  const int64_t cases = count > 1 ? std::atoll(arguments[1]) : 100;
  for (uint64_t seed = 0; seed < static_cast<uint64_t>(cases); ++seed) {
    Random random(seed);
    const Case given(random);
    const auto intervals = seed % 2 == 0 ? check_path<float>(given, random, seed)
                                         : check_path<double>(given, random, seed);
    run_rows(given, intervals, random, seed);
  }
  std::printf("%lld cases\n", static_cast<long long>(cases));
  return 0;
}
