// What surrounds the attention: hash codes from projections, tokens in their order, and tokens added to a map.

#pragma once

#include "common.h"

namespace sparse_attn {

// The code of one projection: the first index of the largest of [x, -x]. What is not a number counts as largest.
inline int64_t nearest_vertex(const float* x, int64_t count) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512 inf = _mm512_set1_ps(std::numeric_limits<float>::infinity());
  __m512 most = _mm512_sub_ps(_mm512_setzero_ps(), inf), least = inf;
  __m512i above = lanes, below = lanes, index = lanes;
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 valid = among(i, count);
    const __m512 next = _mm512_maskz_loadu_ps(valid, x + i);
    if (_mm512_mask_cmp_ps_mask(valid, next, next, _CMP_UNORD_Q) != 0) {
      while (!std::isnan(x[i])) ++i;
      return i;
    }
    const __mmask16 more = _mm512_mask_cmp_ps_mask(valid, next, most, _CMP_GT_OQ);
    const __mmask16 less = _mm512_mask_cmp_ps_mask(valid, next, least, _CMP_LT_OQ);
    most = _mm512_mask_mov_ps(most, more, next);
    least = _mm512_mask_mov_ps(least, less, next);
    above = _mm512_mask_mov_epi32(above, more, index);
    below = _mm512_mask_mov_epi32(below, less, index);
    index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
  }
  const float top = _mm512_reduce_max_ps(most), bottom = _mm512_reduce_min_ps(least);
  if (top < -bottom)
    return _mm512_mask_reduce_min_epi32(_mm512_cmp_ps_mask(least, _mm512_set1_ps(bottom), _CMP_EQ_OQ), below) + count;
  return _mm512_mask_reduce_min_epi32(_mm512_cmp_ps_mask(most, _mm512_set1_ps(top), _CMP_EQ_OQ), above);
}

// (B, N, R, F) projections to (B, R, N) codes.
inline void nearest_vertices(const float* rotated, int64_t batch, int64_t tokens, int64_t rounds, int64_t half,
                             int64_t* codes) {
  at::parallel_for(0, batch * tokens, 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t round = 0; round < rounds; ++round)
        codes[(i / tokens * rounds + round) * tokens + i % tokens] =
            nearest_vertex(rotated + (i * rounds + round) * half, half);
  });
}

// Tokens in order of their codes, (rows, N) each, those with equal codes in order of place: codes are counted.
inline void stable_orders(const int64_t* codes, int64_t rows, int64_t tokens, int64_t* orders) {
  constexpr int64_t kMost = int64_t{1} << 20;
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> next;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t* code = codes + row * tokens;
      const auto [least, most] = std::minmax_element(code, code + tokens);
      TORCH_CHECK(*least >= 0 && *most < kMost, "expected codes in [0, ", kMost, "), got ", *least, " to ", *most);
      next.assign(*most + 2, 0);
      for (int64_t i = 0; i < tokens; ++i) ++next[code[i] + 1];
      for (int64_t c = 0; c <= *most; ++c) next[c + 1] += next[c];
      for (int64_t i = 0; i < tokens; ++i) orders[row * tokens + next[code[i]]++] = i;
    }
  });
}

// to (B, C, N) = from (B, C, N) + scale * tokens (B, N, C).
inline void add_tokens(const float* from, const float* tokens, float scale, int64_t batch, int64_t wide, int64_t count,
                       float* to) {
  constexpr int64_t kSome = 64;  // A cache line or more of each channel, at tokens that stay in the cache.
  const int64_t tiles = (count + kSome - 1) / kSome;
  const __m512i apart = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                           _mm512_set1_epi32(static_cast<int32_t>(wide)));
  at::parallel_for(0, batch * tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t image = tile / tiles, start = tile % tiles * kSome, stop = std::min(start + kSome, count);
      for (int64_t c = 0; c < wide; ++c)
        for (int64_t n = start; n < stop; n += 16) {
          const __mmask16 valid = among(n, stop);
          const int64_t at = (image * wide + c) * count + n;
          const __m512 some = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), valid, apart,
                                                       tokens + (image * count + n) * wide + c, sizeof(float));
          const __m512 x = _mm512_maskz_loadu_ps(valid, from + at);
          _mm512_mask_storeu_ps(to + at, valid, _mm512_add_ps(x, _mm512_mul_ps(some, _mm512_set1_ps(scale))));
        }
    }
  });
}

}  // namespace sparse_attn
