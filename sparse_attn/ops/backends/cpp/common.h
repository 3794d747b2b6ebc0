// What both passes share: how a round is walked, memory, powers of two, and tokens laid out for products.

#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace sparse_attn {

using at::BFloat16;
using at::Tensor;
using at::native::cpublas::brgemm;
using at::native::cpublas::brgemm_release;

constexpr float kLog2E = 1.44269504088896340736f;
constexpr int64_t kWhole = 192;  // Chunks of up to so many tokens are one tile of scores, longer ones are cut ...
constexpr int64_t kTile = 128;   // ... into tiles of this side.

template <typename T>
constexpr int64_t kPair = sizeof(float) / sizeof(T);

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// How a round is walked; `sparse_attn.ops.backends.blocked_rounds.Plan` is its twin.
struct Plan {
  int64_t batch, tokens, width, wide, size, count, reach, before, pad, orders, rounds;
  bool repeat;
  const int64_t* order;

  Plan(const Tensor& q, const Tensor& v, const Tensor& order_, int64_t size_, int64_t neighbors, bool repeat_)
      : batch(q.size(0)),
        tokens(q.size(1)),
        width(q.size(2)),
        wide(v.size(2)),
        size(size_),
        count((tokens + size_ - 1) / size_),
        reach(neighbors + 1),
        before(std::min<int64_t>(neighbors, 1)),
        pad(count * size_ - tokens),
        orders(order_.size(0)),
        rounds(order_.size(1)),
        repeat(repeat_),
        order(order_.const_data_ptr<int64_t>()) {}

  int64_t after() const { return reach - 1 - before; }
  int64_t chunk(int64_t position) const { return ((position % count) + count) % count; }
  int64_t queries(int64_t chunk) const { return chunk == count - 1 ? size - pad : size; }
  int64_t keys(int64_t chunk) const { return repeat ? size : queries(chunk); }

  // The tokens of a chunk, those that the padding repeats included.
  void find(int64_t image, int64_t round, int64_t chunk, int64_t* found) const {
    const int64_t* row = order + ((image % orders) * rounds + round) * tokens;
    for (int64_t i = 0, at = chunk * size; i < keys(chunk); ++i, ++at) found[i] = row[at < tokens ? at : at - pad];
  }
};

// A stretch of chunks of one image.
struct Stretch {
  int64_t image, start, stop;
};

inline std::vector<std::vector<Stretch>> divide(const Plan& plan, int64_t parts) {
  const int64_t items = plan.batch * plan.count;
  parts = std::max<int64_t>(1, std::min(parts, items));
  std::vector<std::vector<Stretch>> divided(parts);
  for (int64_t part = 0; part < parts; ++part) {
    int64_t item = items * part / parts;
    const int64_t end = items * (part + 1) / parts;
    while (item < end) {
      const int64_t image = item / plan.count, start = item % plan.count;
      const int64_t stop = std::min(plan.count, start + end - item);
      divided[part].push_back({image, start, stop});
      item += stop - start;
    }
  }
  return divided;
}

// Memory of one thread, handed out piece by piece on cache lines. Without memory it counts what is asked for.
class Slab {
 public:
  explicit Slab(char* start = nullptr) : start_(start) {}

  template <typename T>
  T* take(int64_t count) {
    char* piece = start_ + used_;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return reinterpret_cast<T*>(piece);
  }

  int64_t used() const { return used_; }

 private:
  char* start_;
  int64_t used_ = 0;
};

// 2^x, rounded; for bf16 with an error of 4e-6 of it. 0 below -126, where float32 is no longer normal.
template <typename T>
inline __m512 powers_of_two(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, whole);
  // The polynomials through 2^f at the Chebyshev nodes of [-1/2, 1/2].
  __m512 p;
  const auto next = [&](float c) { p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c)); };
  if constexpr (kPair<T> == 1) {
    p = _mm512_set1_ps(1.54614447e-4f);
    next(1.34004282e-3f);
    next(9.61805668e-3f);
    next(5.55032723e-2f);
    next(2.40226509e-1f);
    next(6.93147207e-1f);
    next(1.0f);
  } else {
    p = _mm512_set1_ps(9.66636852e-3f);
    next(5.59219758e-2f);
    next(2.40223490e-1f);
    next(6.93121045e-1f);
    next(1.0f);
  }
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ), p, whole);
}

// Which of 16 numbers are among the first `count`, from `start` on.
inline __mmask16 among(int64_t start, int64_t count) {
  const int64_t left = count - start;
  return left >= 16 ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1u);
}

template <typename T>
inline void store(T* to, __mmask16 mask, __m512 x) {
  if constexpr (kPair<T> == 1)
    _mm512_mask_storeu_ps(to, mask, x);
  else
    _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(x));
}

// (rows, columns) -> (columns, rows), of any units.
template <typename U>
void transpose(const U* from, int64_t rows, int64_t columns, U* to) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) to[c * rows + r] = from[r * columns + c];
}

// The rows of `count` tokens, (padded_rows, padded_width) with zeros beyond.
template <typename T>
void gather(const T* from, int64_t width, const int64_t* tokens, int64_t count, T* to, int64_t padded_width,
            int64_t padded_rows) {
  for (int64_t i = 0; i < count; ++i) {
    T* row = to + i * padded_width;
    std::memcpy(row, from + tokens[i] * width, width * sizeof(T));
    std::memset(static_cast<void*>(row + width), 0, (padded_width - width) * sizeof(T));
  }
  std::memset(static_cast<void*>(to + count * padded_width), 0, (padded_rows - count) * padded_width * sizeof(T));
}

// (rows, columns) of bf16 to packed (rows / 2, columns, 2).
inline void interleave(const BFloat16* from, int64_t rows, int64_t columns, BFloat16* to) {
  const auto* source = reinterpret_cast<const uint16_t*>(from);
  auto* target = reinterpret_cast<uint32_t*>(to);
  for (int64_t r = 0; r < rows; r += 2) {
    const uint16_t* even = source + r * columns;
    const uint16_t* odd = even + columns;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c)
      target[r / 2 * columns + c] = static_cast<uint32_t>(even[c]) | static_cast<uint32_t>(odd[c]) << 16;
  }
}

// C (M, N) of row stride ldc = or += A (M, K) of row stride lda, times B, packed, of row stride ldb.
template <typename T>
void multiply(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, float* c, int64_t ldc,
              bool add) {
  brgemm(m, n, k, lda, ldb, ldc, add, a, b, c, kPair<T> == 2);
}

// Rows that will be needed soon, asked for a few cache lines at a time while something else is computed: they lie
// anywhere in memory, so that the processor cannot foresee them.
class Ahead {
 public:
  void clear() { rows_.clear(), row_ = lines_ = line_ = 0; }

  void add(const void* start, int64_t bytes) {
    rows_.push_back({static_cast<const char*>(start), bytes / 64 + 1});
    lines_ += rows_.back().lines;
  }

  // To have asked for all of them in so many steps.
  void divide(int64_t steps) { at_once_ = (lines_ + steps - 1) / std::max<int64_t>(steps, 1); }

  void step() {
    for (int64_t i = 0; i < at_once_ && row_ < static_cast<int64_t>(rows_.size()); ++i) {
      _mm_prefetch(rows_[row_].start + line_ * 64, _MM_HINT_T1);
      if (++line_ == rows_[row_].lines) ++row_, line_ = 0;
    }
  }

 private:
  struct Row {
    const char* start;
    int64_t lines;
  };
  std::vector<Row> rows_;
  int64_t row_ = 0, line_ = 0, lines_ = 0, at_once_ = 0;
};

// What both passes hold of the sizes, with room for pairs.
template <typename T>
struct Sizes {
  int64_t rows, width, wide, tile;

  explicit Sizes(const Plan& plan)
      : rows(round_up(plan.size, kPair<T>)),
        width(round_up(plan.width, kPair<T>)),
        wide(round_up(plan.wide, kPair<T>)),
        tile(rows <= kWhole ? rows : kTile) {}
};

}  // namespace sparse_attn
