// The backward pass: scores are computed again.

#pragma once

#include "common.h"

namespace sparse_attn {

template <typename T>
struct Backward {
  const Plan& plan;
  Sizes<T> sizes;
  const T *grad, *q, *k, *v;
  const float *mean, *log_sum;  // (B, N)
  float *dq, *dk, *dv;

  struct Slot {
    T *keys, *turned, *values;
    float *dk, *dv;
  };
  struct Scratch {
    int64_t *rows, *other;
    T *gathered, *queries, *queries_turned, *grads, *grads_turned, *p, *ds, *ds_packed;
    std::vector<Slot> slots;
    float *scores, *products, *dq, *log_sum, *mean;
  };
  // Gradients of keys that another thread meets too: whose, and a copy to add up later.
  struct Shared {
    int64_t image, chunk;
    std::vector<float> dk, dv;
  };

  Scratch scratch(Slab& slab) const {
    const int64_t rows = sizes.rows, tile = sizes.tile * sizes.tile;
    Scratch s;
    s.rows = slab.take<int64_t>(rows);
    s.other = slab.take<int64_t>(rows);
    s.gathered = slab.take<T>(rows * std::max(sizes.width, sizes.wide));
    s.queries = slab.take<T>(rows * sizes.width);
    s.queries_turned = slab.take<T>(rows * sizes.width);
    s.grads = slab.take<T>(rows * sizes.wide);
    s.grads_turned = slab.take<T>(rows * sizes.wide);
    for (int64_t i = 0; i < plan.reach; ++i)
      s.slots.push_back({slab.take<T>(rows * sizes.width), slab.take<T>(rows * sizes.width),
                         slab.take<T>(rows * sizes.wide), slab.take<float>(rows * sizes.width),
                         slab.take<float>(rows * sizes.wide)});
    s.scores = slab.take<float>(tile);
    s.products = slab.take<float>(tile);
    s.p = kPair<T> == 1 ? reinterpret_cast<T*>(s.scores) : slab.take<T>(tile);
    s.ds = kPair<T> == 1 ? reinterpret_cast<T*>(s.products) : slab.take<T>(tile);
    s.ds_packed = kPair<T> == 1 ? s.ds : slab.take<T>(tile);
    s.dq = slab.take<float>(rows * sizes.width);
    s.log_sum = slab.take<float>(rows);
    s.mean = slab.take<float>(rows);
    return s;
  }

  Slot& slot_of(Scratch& s, int64_t position) const { return s.slots[(position + plan.before) % plan.reach]; }

  void load(Scratch& s, int64_t image, int64_t round, int64_t position) const {
    const int64_t chunk = plan.chunk(position), n = plan.keys(chunk), rows = sizes.rows;
    Slot& slot = slot_of(s, position);
    plan.find(image, round, chunk, s.other);
    gather(k + image * plan.tokens * plan.width, plan.width, s.other, n, slot.keys, sizes.width, rows);
    transpose(slot.keys, rows, sizes.width, slot.turned);
    gather(v + image * plan.tokens * plan.wide, plan.wide, s.other, n, slot.values, sizes.wide, rows);
    std::fill(slot.dk, slot.dk + rows * sizes.width, 0.0f);
    std::fill(slot.dv, slot.dv + rows * sizes.wide, 0.0f);
  }

  // Rows of queries, or of what their outputs' gradients are: as they are, packed, and turned and packed.
  void load_rows(Scratch& s, const T* from, int64_t width, int64_t padded, int64_t real, T* packed, T* turned) const {
    T* gathered = kPair<T> == 1 ? packed : s.gathered;
    gather(from, width, s.rows, real, gathered, padded, sizes.rows);
    transpose(reinterpret_cast<const float*>(gathered), sizes.rows, padded / kPair<T>,
              reinterpret_cast<float*>(turned));
    if constexpr (kPair<T> == 2) interleave(gathered, sizes.rows, padded, packed);
  }

  void chunk(Scratch& s, int64_t image, int64_t round, int64_t j) const {
    const int64_t real = plan.queries(j), first = image * plan.tokens;
    plan.find(image, round, j, s.rows);
    load_rows(s, q + first * plan.width, plan.width, sizes.width, real, s.queries, s.queries_turned);
    load_rows(s, grad + first * plan.wide, plan.wide, sizes.wide, real, s.grads, s.grads_turned);
    for (int64_t i = 0; i < sizes.rows; ++i) {
      // No weight where there is no query.
      s.log_sum[i] = i < real ? log_sum[first + s.rows[i]] : std::numeric_limits<float>::max();
      s.mean[i] = i < real ? mean[first + s.rows[i]] : 0.0f;
    }
    std::fill(s.dq, s.dq + sizes.rows * sizes.width, 0.0f);
    for (int64_t position = j - plan.before; position <= j + plan.after(); ++position) {
      const Slot& slot = slot_of(s, position);
      for (int64_t key = 0; key < sizes.rows; key += sizes.tile)
        for (int64_t query = 0; query < real; query += sizes.tile)
          tile(s, slot, key, std::min(sizes.tile, sizes.rows - key), query, std::min(sizes.tile, sizes.rows - query));
    }
    for (int64_t i = 0; i < real; ++i) {
      float* into = dq + (first + s.rows[i]) * plan.width;
      for (int64_t c = 0; c < plan.width; ++c) into[c] = s.dq[c * sizes.rows + i] + (round == 0 ? 0.0f : into[c]);
    }
  }

  // Scores turned, (keys, queries), so that neither the weights nor their gradients need be.
  void tile(Scratch& s, const Slot& slot, int64_t key, int64_t keys, int64_t query, int64_t queries) const {
    const int64_t width = sizes.width, wide = sizes.wide, rows = sizes.rows;
    multiply<T>(keys, queries, width, slot.keys + key * width, width, s.queries_turned + query * kPair<T>, rows,
                s.scores, queries, false);
    multiply<T>(keys, queries, wide, slot.values + key * wide, wide, s.grads_turned + query * kPair<T>, rows,
                s.products, queries, false);
    weigh(s, keys, query, queries);
    multiply<T>(keys, wide, queries, s.p, queries, s.grads + query * wide, wide, slot.dv + key * wide, wide, true);
    multiply<T>(keys, width, queries, s.ds, queries, s.queries + query * width, width, slot.dk + key * width, width,
                true);
    multiply<T>(width, queries, keys, slot.turned + key, rows, s.ds_packed, queries, s.dq + query, rows, true);
  }

  // P = 2^(s - log-sum), at most 1 however scores are rounded, and dS = P (dO V^T - dO . O).
  void weigh(const Scratch& s, int64_t keys, int64_t query, int64_t queries) const {
    const __m512 log2_e = _mm512_set1_ps(kLog2E), zero = _mm512_setzero_ps();
    for (int64_t i = 0; i < keys; ++i)
      for (int64_t c = 0; c < queries; c += 16) {
        const __mmask16 valid = among(c, queries);
        const int64_t at = i * queries + c;
        const __m512 score = _mm512_mul_ps(_mm512_maskz_loadu_ps(valid, s.scores + at), log2_e);
        const __m512 sum = _mm512_maskz_loadu_ps(valid, s.log_sum + query + c);
        // In this order the bound keeps what is not a number.
        const __m512 p = powers_of_two<T>(_mm512_min_ps(zero, _mm512_sub_ps(score, sum)));
        const __m512 mean = _mm512_maskz_loadu_ps(valid, s.mean + query + c);
        const __m512 product = _mm512_maskz_loadu_ps(valid, s.products + at);
        store(s.p + at, valid, p);
        store(s.ds + at, valid, _mm512_mul_ps(p, _mm512_sub_ps(product, mean)));
      }
    if constexpr (kPair<T> == 2) interleave(s.ds, keys, queries, s.ds_packed);
  }

  void add(const int64_t* tokens, int64_t count, const float* from, int64_t padded, float* into, int64_t width,
           int64_t low, int64_t high) const {
    for (int64_t i = 0; i < count; ++i) {
      const float* row = from + i * padded;
      float* to = into + tokens[i] * width;
#pragma omp simd
      for (int64_t c = low; c < high; ++c) to[c] += row[c];
    }
  }

  // A chunk of keys that no query of this stretch will meet any more.
  void leave(Scratch& s, const Stretch& stretch, int64_t round, int64_t position, std::vector<Shared>& shared) const {
    const Slot& slot = slot_of(s, position);
    const int64_t chunk = plan.chunk(position), n = plan.keys(chunk), image = stretch.image;
    const bool whole = stretch.start == 0 && stretch.stop == plan.count;
    const bool inside = position - plan.after() >= stretch.start && position + plan.before < stretch.stop;
    const bool repeats = plan.repeat && plan.pad > 0 && chunk == plan.count - 1;
    if (whole || (inside && !repeats)) {
      plan.find(image, round, chunk, s.other);
      add(s.other, n, slot.dk, sizes.width, dk + image * plan.tokens * plan.width, plan.width, 0, plan.width);
      add(s.other, n, slot.dv, sizes.wide, dv + image * plan.tokens * plan.wide, plan.wide, 0, plan.wide);
    } else {
      shared.push_back({image, chunk, {slot.dk, slot.dk + n * sizes.width}, {slot.dv, slot.dv + n * sizes.wide}});
    }
  }

  // Each thread adds some channels of every copy.
  void add_shared(const std::vector<std::vector<Shared>>& all, int64_t round) const {
    at::parallel_for(0, plan.width + plan.wide, 16, [&](int64_t low, int64_t high) {
      std::vector<int64_t> tokens(plan.size);
      for (const auto& of_part : all)
        for (const Shared& one : of_part) {
          const int64_t n = plan.keys(one.chunk), first = one.image * plan.tokens;
          plan.find(one.image, round, one.chunk, tokens.data());
          if (low < plan.width)
            add(tokens.data(), n, one.dk.data(), sizes.width, dk + first * plan.width, plan.width, low,
                std::min(high, plan.width));
          if (high > plan.width)
            add(tokens.data(), n, one.dv.data(), sizes.wide, dv + first * plan.wide, plan.wide,
                std::max<int64_t>(low - plan.width, 0), high - plan.width);
        }
    });
  }

  void run() const {
    Slab measure;
    scratch(measure);
    const auto parts = divide(plan, at::get_num_threads());
    const int64_t count = static_cast<int64_t>(parts.size()), bytes = round_up(measure.used(), 4096);
    Tensor memory = at::empty({count * bytes + 64}, at::kByte);
    char* start = reinterpret_cast<char*>(round_up(reinterpret_cast<int64_t>(memory.data_ptr()), 64));
    for (int64_t round = 0; round < plan.rounds; ++round) {
      std::vector<std::vector<Shared>> shared(count);
      at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t part = begin; part < end; ++part) {
          Slab slab(start + part * bytes);
          Scratch s = scratch(slab);
          for (const Stretch& stretch : parts[part]) {
            for (int64_t p = stretch.start - plan.before; p < stretch.start + plan.after(); ++p)
              load(s, stretch.image, round, p);
            for (int64_t j = stretch.start; j < stretch.stop; ++j) {
              load(s, stretch.image, round, j + plan.after());
              chunk(s, stretch.image, round, j);
              leave(s, stretch, round, j - plan.before, shared[part]);
            }
            for (int64_t p = stretch.stop - plan.before; p < stretch.stop + plan.after(); ++p)
              leave(s, stretch, round, p, shared[part]);
          }
        }
        brgemm_release(kPair<T> == 2);
      });
      add_shared(shared, round);
    }
  }
};

}  // namespace sparse_attn
