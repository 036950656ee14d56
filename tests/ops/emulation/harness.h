// What tests pass to the emulated kernels; test_emulated_kernels.py mirrors the three structures.
#pragma once

#define THAITOOL_EMULATED
#include "cuda_emulation.h"

#include "dtw_kernels.cuh"
#include "gradient_helpers.cuh"
#include "gradient_kernels.cuh"
#include "statistics_kernels.cuh"

constexpr size_t kProblemBytes = 256;

extern "C" {

struct PathCall {
  int64_t dtype;  // 0 double, 1 float, 2 half, 3 bfloat16
  uint64_t seed;
  const void* dots;
  int64_t speech_stride, place_stride, frame_stride;
  const double *inverse_frame, *inverse_token, *frame_shift, *token_shift, *drop_cost;
  const double* token_weights;
  const int64_t *text_index, *speech_lengths, *text_lengths;
  int64_t speeches, places, frames, texts, tokens;
  double band, prior;
  int64_t monotonic, shared_limit;
  int64_t warps, columns_per_lane;  // instead of what the plan says, or 0
  void* intervals;
  int32_t* path_length;
  double* path_cost;
};

struct StatisticsCall {
  int64_t dtype;
  uint64_t seed;
  const void* vectors;
  int64_t batch_stride, row_stride;
  const void *own_mean, *other_mean;
  const int64_t* lengths;
  int64_t batch, rows, width, centre_shift, aligned;
  double *inverse_norms, *shift;
};

struct GradientCall {
  int64_t dtype;
  uint64_t seed;
  const double* grad;
  const void *speech, *text;
  int64_t speech_batch_stride, speech_row_stride, text_batch_stride, text_row_stride;
  const void *speech_mean, *text_mean;
  const double *inverse_frame, *inverse_token;
  const void* intervals;
  const int64_t *text_index, *speech_lengths, *text_lengths;
  const double* token_weights;
  int64_t speeches, places, frames, texts, tokens, width, aligned;
  void *grad_speech, *grad_text, *grad_speech_mean, *grad_text_mean;  // null: not needed
};

int emulate_path(const PathCall* call, char* problem);
int emulate_statistics(const StatisticsCall* call, char* problem);
int emulate_gradient(const GradientCall* call, char* problem);
}
