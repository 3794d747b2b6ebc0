// The forward pass, and the largest score of each query.

#pragma once

#include "common.h"

namespace sparse_attn {

template <typename T>
struct Forward {
  const Plan& plan;
  Sizes<T> sizes;
  const T *q, *k, *v;
  const float* shift;
  float *largest, *sum, *log_sum;  // (B, N); one of `largest` and `sum` is asked for
  T* out;

  struct Scratch {
    int64_t *rows, *other;
    T *queries, *gathered, *powers;
    std::vector<T*> keys, values;
    float *scores, *result, *total;
    Ahead ahead;
  };

  Scratch scratch(Slab& slab) const {
    Scratch s;
    s.rows = slab.take<int64_t>(sizes.rows);
    s.other = slab.take<int64_t>(sizes.rows);
    s.queries = slab.take<T>(sizes.rows * sizes.width);
    s.gathered = slab.take<T>(sizes.rows * std::max(sizes.width, plan.wide));
    for (int64_t i = 0; i < plan.reach; ++i) {
      s.keys.push_back(slab.take<T>(sizes.rows * sizes.width));
      s.values.push_back(slab.take<T>(sizes.rows * plan.wide));
    }
    s.scores = slab.take<float>(sizes.tile * sizes.tile);
    s.powers = kPair<T> == 1 ? reinterpret_cast<T*>(s.scores) : slab.take<T>(sizes.tile * sizes.tile);
    s.result = slab.take<float>(sizes.rows * plan.wide);
    s.total = slab.take<float>(sizes.rows);
    return s;
  }

  void load(Scratch& s, int64_t image, int64_t round, int64_t position) const {
    const int64_t chunk = plan.chunk(position), slot = (position + plan.before) % plan.reach, n = plan.keys(chunk);
    plan.find(image, round, chunk, s.other);
    gather(k + image * plan.tokens * plan.width, plan.width, s.other, n, s.gathered, sizes.width, sizes.rows);
    transpose(reinterpret_cast<const float*>(s.gathered), sizes.rows, sizes.width / kPair<T>,
              reinterpret_cast<float*>(s.keys[slot]));
    if (largest != nullptr) return;
    T* values = kPair<T> == 1 ? s.values[slot] : s.gathered;
    gather(v + image * plan.tokens * plan.wide, plan.wide, s.other, n, values, plan.wide, sizes.rows);
    if constexpr (kPair<T> == 2) interleave(values, sizes.rows, plan.wide, s.values[slot]);
  }

  // Asks for what the end of this chunk and the start of the next will touch.
  void foresee(Scratch& s, const Stretch& stretch, int64_t round, int64_t j) const {
    s.ahead.clear();
    const int64_t real = plan.queries(j), first = stretch.image * plan.tokens;
    plan.find(stretch.image, round, j, s.rows);
    for (int64_t i = 0; i < real; ++i) s.ahead.add(sum + (first + s.rows[i]) * plan.wide, plan.wide * sizeof(float));
    if (j + 1 < stretch.stop) {
      const int64_t next = plan.chunk(j + 1 + plan.after());
      plan.find(stretch.image, round, next, s.other);
      for (int64_t i = 0; i < plan.keys(next); ++i) {
        s.ahead.add(k + (first + s.other[i]) * plan.width, plan.width * sizeof(T));
        s.ahead.add(v + (first + s.other[i]) * plan.wide, plan.wide * sizeof(T));
      }
    }
    s.ahead.divide(real * plan.reach);
  }

  // The scores of a tile: those of padding are whatever they are.
  void score(const Scratch& s, int64_t slot, int64_t row, int64_t rows, int64_t column, int64_t columns) const {
    multiply<T>(rows, columns, sizes.width, s.queries + row * sizes.width, sizes.width,
                s.keys[slot] + column * kPair<T>, sizes.rows, s.scores, columns, false);
  }

  void chunk(Scratch& s, int64_t image, int64_t round, int64_t j) const {
    const int64_t real = plan.queries(j);
    plan.find(image, round, j, s.rows);
    gather(q + image * plan.tokens * plan.width, plan.width, s.rows, real, s.queries, sizes.width, sizes.rows);
    std::fill(s.total, s.total + sizes.rows, largest != nullptr ? -std::numeric_limits<float>::infinity() : 0.0f);
    bool add = false;
    for (int64_t position = j - plan.before; position <= j + plan.after(); ++position) {
      const int64_t slot = (position + plan.before) % plan.reach, valid = plan.keys(plan.chunk(position));
      for (int64_t column = 0; column < valid; column += sizes.tile) {
        const int64_t columns = std::min(sizes.tile, sizes.rows - column);
        const int64_t keys = std::min(columns, valid - column);
        for (int64_t row = 0; row < real; row += sizes.tile) {
          const int64_t rows = std::min(sizes.tile, sizes.rows - row);
          score(s, slot, row, rows, column, columns);
          if (largest != nullptr) {
            find_largest(s, row, std::min(rows, real - row), keys, columns);
            continue;
          }
          raise(s, image, row, std::min(rows, real - row), rows, keys, columns);
          multiply<T>(rows, plan.wide, columns, s.powers, columns, s.values[slot] + column * plan.wide, plan.wide,
                      s.result + row * plan.wide, plan.wide, add || column > 0);
        }
      }
      add = true;
    }
    finish(s, image, round, real);
  }

  void find_largest(const Scratch& s, int64_t row, int64_t rows, int64_t keys, int64_t columns) const {
    for (int64_t i = 0; i < rows; ++i) {
      const float* scores = s.scores + i * columns;
      float most = s.total[row + i];
#pragma omp simd reduction(max : most)
      for (int64_t c = 0; c < keys; ++c) most = std::max(most, scores[c] * kLog2E);
      s.total[row + i] = most;
    }
  }

  // Scores to powers, and their sums.
  void raise(Scratch& s, int64_t image, int64_t row, int64_t real, int64_t rows, int64_t keys, int64_t columns) const {
    const __m512 log2_e = _mm512_set1_ps(kLog2E);
    for (int64_t i = 0; i < real; ++i) {
      const float* scores = s.scores + i * columns;
      T* powers = s.powers + i * columns;
      const __m512 subtract = _mm512_set1_ps(shift == nullptr ? 0.0f : shift[image * plan.tokens + s.rows[row + i]]);
      __m512 sum = _mm512_setzero_ps();
      for (int64_t c = 0; c < columns; c += 16) {
        const __mmask16 valid = among(c, keys);
        const __m512 score = _mm512_mul_ps(_mm512_maskz_loadu_ps(valid, scores + c), log2_e);
        const __m512 power = _mm512_maskz_mov_ps(valid, powers_of_two<T>(_mm512_sub_ps(score, subtract)));
        sum = _mm512_add_ps(sum, power);
        store(powers + c, among(c, columns), power);
      }
      s.total[row + i] += _mm512_reduce_add_ps(sum);
      s.ahead.step();
    }
    if (real < rows) std::memset(static_cast<void*>(s.powers + real * columns), 0, (rows - real) * columns * sizeof(T));
  }

  // Adds what a chunk found to its tokens; after the last round, divides by the sums.
  void finish(const Scratch& s, int64_t image, int64_t round, int64_t real) const {
    const bool first = round == 0, last = round == plan.rounds - 1;
    for (int64_t i = 0; i < real; ++i) {
      const int64_t token = image * plan.tokens + s.rows[i];
      if (largest != nullptr) {
        largest[token] = std::max(largest[token], s.total[i]);
        continue;
      }
      const float total = first ? s.total[i] : log_sum[token] + s.total[i];
      log_sum[token] = last ? std::log2(total) + (shift == nullptr ? 0.0f : shift[token]) : total;
      const float scale = last ? 1.0f / total : 1.0f;
      const float* result = s.result + i * plan.wide;
      float* into = sum + token * plan.wide;
      if (first && !(last && kPair<T> == 2)) {
#pragma omp simd
        for (int64_t c = 0; c < plan.wide; ++c) into[c] = result[c] * scale;
      } else if (!last) {
#pragma omp simd
        for (int64_t c = 0; c < plan.wide; ++c) into[c] += result[c];
      } else if constexpr (kPair<T> == 1) {
#pragma omp simd
        for (int64_t c = 0; c < plan.wide; ++c) into[c] = (into[c] + result[c]) * scale;
      } else {
        for (int64_t c = 0; c < plan.wide; c += 16) {
          const __mmask16 valid = among(c, plan.wide);
          __m512 x = _mm512_maskz_loadu_ps(valid, result + c);
          if (!first) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(valid, into + c));
          store(out + token * plan.wide + c, valid, _mm512_mul_ps(x, _mm512_set1_ps(scale)));
        }
      }
    }
  }

  void run() const {
    Slab measure;
    scratch(measure);
    const auto parts = divide(plan, at::get_num_threads());
    const int64_t count = static_cast<int64_t>(parts.size()), bytes = round_up(measure.used(), 4096);
    Tensor memory = at::empty({count * bytes + 64}, at::kByte);
    char* start = reinterpret_cast<char*>(round_up(reinterpret_cast<int64_t>(memory.data_ptr()), 64));
    for (int64_t round = 0; round < plan.rounds; ++round) {
      at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t part = begin; part < end; ++part) {
          Slab slab(start + part * bytes);
          Scratch s = scratch(slab);
          for (const Stretch& stretch : parts[part]) {
            for (int64_t p = stretch.start - plan.before; p < stretch.start + plan.after(); ++p)
              load(s, stretch.image, round, p);
            for (int64_t j = stretch.start; j < stretch.stop; ++j) {
              load(s, stretch.image, round, j + plan.after());
              if (largest == nullptr) foresee(s, stretch, round, j);
              chunk(s, stretch.image, round, j);
            }
          }
        }
        brgemm_release(kPair<T> == 2);
      });
    }
  }
};

}  // namespace sparse_attn
