// Runs the text of a CUDA kernel on the CPU: every thread of a block is a fiber, and a barrier or a
// shuffle switches to another one. For tests of thaitool/ops/csrc/*.cuh only; slow, one core.
//
// Fibers run in an order drawn from a seed, from one synchronisation to the next without interruption,
// so that a result that needs a barrier which is not there differs between seeds. Shared memory starts
// as NaN, a fresh heap block per launch, so that sanitizers see what lies outside.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define threadIdx (emulation::current_thread())
#define blockIdx (emulation::block().index)
#define blockDim (emulation::block().size)
#define THAITOOL_SHARED(name) unsigned char* name = emulation::block().shared
#define THAITOOL_ASSERT(condition, sentence) \
  do {                                       \
    if (!(condition)) {                      \
      throw std::runtime_error(sentence);    \
    }                                        \
  } while (false)

namespace emulation {

struct Index {
  unsigned x;
};

constexpr int kWarpSize = 32;
constexpr size_t kStack = 96 * 1024;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<unsigned char[]> stack;
  Index thread;
  bool done = false;
  const int64_t* waits_for = nullptr;  // runs again when this counter has passed `seen`
  int64_t seen = 0;
};

// A meeting point of a warp or a block. Values given to one meeting stay until the next but one, and
// nobody can be further ahead than that.
struct Meeting {
  int64_t round = 0;
  int arrived = 0;
  uint64_t values[2][kWarpSize];
};

struct Block {
  Index index, size;
  unsigned char* shared;
  std::vector<Fiber> fibers;
  std::vector<Meeting> warps;
  Meeting all;
  ucontext_t scheduler;
  Fiber* running;
  std::function<void()> kernel;
  std::string problem;
};

inline Block*& block_pointer() {
  static Block* pointer = nullptr;
  return pointer;
}
inline Block& block() { return *block_pointer(); }
inline Index current_thread() { return block().running->thread; }

inline int meet(Meeting& meeting, int members, int lane, uint64_t value) {
  Block& here = block();
  const int side = static_cast<int>(meeting.round % 2);
  meeting.values[side][lane] = value;
  if (++meeting.arrived == members) {
    meeting.arrived = 0;
    ++meeting.round;
    return side;
  }
  Fiber* self = here.running;
  self->waits_for = &meeting.round;
  self->seen = meeting.round;
  swapcontext(&self->context, &here.scheduler);
  return side;
}

template <typename T>
T exchange(unsigned mask, T value, int source) {
  if (mask != 0xffffffffu) {
    throw std::runtime_error("emulation: only whole warps shuffle");
  }
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const unsigned thread = current_thread().x;
  Meeting& meeting = block().warps[thread / kWarpSize];
  const int side = meet(meeting, kWarpSize, thread % kWarpSize, bits);
  T result;
  std::memcpy(&result, &meeting.values[side][source], sizeof(T));
  return result;
}

inline void enter_fiber() {
  Block& here = block();
  try {
    here.kernel();
  } catch (const std::exception& error) {
    here.problem = error.what();
  }
  here.running->done = true;
  swapcontext(&here.running->context, &here.scheduler);
}

// Runs those that can run, each to its next synchronisation; returns how many did.
inline size_t run_once(Block& here, const std::vector<size_t>& order, size_t& unfinished) {
  size_t moved = 0;
  for (const size_t at : order) {
    Fiber& fiber = here.fibers[at];
    if (fiber.done || (fiber.waits_for != nullptr && *fiber.waits_for == fiber.seen)) {
      continue;
    }
    ++moved;
    fiber.waits_for = nullptr;
    here.running = &fiber;
    swapcontext(&here.scheduler, &fiber.context);
    unfinished -= fiber.done ? 1 : 0;
    if (!here.problem.empty()) {
      throw std::runtime_error(here.problem);
    }
  }
  return moved;
}

// Runs all fibers of a block to the end; throws what one of them threw, or that they are stuck.
inline void run_block(Block& here, std::mt19937_64& random) {
  for (Fiber& fiber : here.fibers) {
    fiber.done = false;
    fiber.waits_for = nullptr;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &enter_fiber, 0);
  }
  // Half of the rounds run every thread once; the other half run one warp after the other, each as far
  // as it can get, because on a device one warp may be far ahead of another.
  std::vector<size_t> order(here.fibers.size()), warps(here.warps.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::iota(warps.begin(), warps.end(), size_t{0});
  for (size_t unfinished = order.size(); unfinished > 0;) {
    std::shuffle(order.begin(), order.end(), random);
    size_t moved = 0;
    if (random() % 2 == 0) {
      moved = run_once(here, order, unfinished);
    } else {
      std::shuffle(warps.begin(), warps.end(), random);
      for (const size_t warp : warps) {
        std::vector<size_t> members;
        std::copy_if(order.begin(), order.end(), std::back_inserter(members), [&](size_t at) {
          return at / kWarpSize == warp;
        });
        for (size_t more = 1; more > 0; moved += more) {
          more = run_once(here, members, unfinished);
        }
      }
    }
    if (moved == 0) {
      throw std::runtime_error("emulation: threads wait for each other for ever");
    }
  }
}

// What <<<blocks, threads, shared_bytes>>> does; blocks run one after the other, in a drawn order.
template <typename Problem>
void launch(
    void (*kernel)(Problem), int64_t blocks, int threads, int64_t shared_bytes,
    const Problem& problem, std::mt19937_64& random) {
  if (threads % kWarpSize != 0 || threads > 1024) {
    throw std::runtime_error("emulation: a block has whole warps, 1024 threads at most");
  }
  Block here{};
  here.size.x = static_cast<unsigned>(threads);
  here.warps.resize(threads / kWarpSize);
  here.fibers.resize(threads);
  for (int at = 0; at < threads; ++at) {
    here.fibers[at].stack.reset(new unsigned char[kStack]);
    here.fibers[at].thread.x = static_cast<unsigned>(at);
  }
  here.kernel = [&] { kernel(problem); };
  block_pointer() = &here;
  std::vector<int64_t> order(blocks);
  for (int64_t at = 0; at < blocks; ++at) {
    order[at] = at;
  }
  std::shuffle(order.begin(), order.end(), random);
  for (const int64_t at : order) {
    std::vector<unsigned char> shared(shared_bytes, 0xff);  // NaN as float and as double
    shared.shrink_to_fit();
    here.shared = shared.data();
    here.index.x = static_cast<unsigned>(at);
    here.all = Meeting{};
    std::fill(here.warps.begin(), here.warps.end(), Meeting{});
    run_block(here, random);
  }
  block_pointer() = nullptr;
}

}  // namespace emulation

inline void __syncthreads() {
  emulation::Block& here = emulation::block();
  emulation::meet(here.all, static_cast<int>(here.size.x), 0, 0);
}
inline void __syncwarp() { emulation::exchange(0xffffffffu, 0, 0); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  return emulation::exchange(mask, value, source % emulation::kWarpSize);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  const int lane = static_cast<int>(emulation::current_thread().x) % emulation::kWarpSize;
  const int source = lane - static_cast<int>(delta);
  return emulation::exchange(mask, value, source < 0 ? lane : source);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  const int lane = static_cast<int>(emulation::current_thread().x) % emulation::kWarpSize;
  return emulation::exchange(mask, value, lane ^ bits);
}
inline unsigned __ballot_sync(unsigned mask, bool value) {
  const unsigned thread = emulation::current_thread().x;
  emulation::Meeting& meeting = emulation::block().warps[thread / emulation::kWarpSize];
  const int side = emulation::meet(
      meeting, emulation::kWarpSize, static_cast<int>(thread % emulation::kWarpSize), value);
  unsigned found = 0;
  for (int lane = 0; lane < emulation::kWarpSize; ++lane) {
    found |= (meeting.values[side][lane] & 1) != 0 ? 1u << lane : 0u;
  }
  return found & mask;
}
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline int __popc(unsigned value) { return __builtin_popcount(value); }

// The two narrow types, converted as the device does it: to nearest, ties to even.
struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (std::isnan(value)) {
    return {0x7fff};
  }
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline float __half2float(__half value) {
  const int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  const float size = exponent == 31  ? (fraction != 0 ? NAN : INFINITY)
                     : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                     : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return (value.bits & 0x8000) != 0 ? -size : size;
}
inline __half __float2half_rn(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (std::isnan(value)) {
    return {0x7fff};
  }
  if (size >= 65520.0f) {
    return {static_cast<uint16_t>(sign | 0x7c00)};
  }
  // Spacing of the halves around `size`; nearbyint rounds ties to even.
  const int exponent = std::max(size == 0.0f ? -14 : std::ilogb(size), -14);
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  return {static_cast<uint16_t>(sign | (steps + ((exponent + 14) << 10)))};
}
