// Sparse buckets on x86-64 processors with AVX-512, compiled where they run: see native_build.py.
//
// A thread walks along a stretch of chunks and keeps the window of keys and values that it has gathered: from one chunk
// to the next only one chunk of keys is new. Products are those of oneDNN, which PyTorch hands out as `brgemm`: one
// thread's product of small matrices in the cache. Their right-hand side is row-major in float32; in bf16 pairs of its
// rows are interleaved, (rows / 2, columns, 2), which is what "packed" means below.
//
// Rounds run one after another. In a round every token is the query of one chunk, so threads add to rows of their own;
// only keys near the ends of a stretch are met by two threads, and those add to a copy that is added up afterwards.

#include <torch/library.h>

#include <optional>

#include "around.h"
#include "backward.h"
#include "forward.h"

namespace sparse_attn {
namespace {

const float* pointer(const std::optional<Tensor>& x) { return x ? x->const_data_ptr<float>() : nullptr; }

template <typename Call>
void by_dtype(const Tensor& like, Call call) {
  if (like.scalar_type() == at::kFloat)
    call(float{});
  else if (like.scalar_type() == at::kBFloat16)
    call(BFloat16{});
  else
    TORCH_CHECK_NOT_IMPLEMENTED(false, "expected float32 or bfloat16, got ", like.scalar_type());
}

// Adds to `sum` (B, N, C) float32, and writes what it comes to to `out`, the same tensor in float32.
void forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& order, int64_t size, int64_t neighbors,
             bool repeat, const std::optional<Tensor>& shift, Tensor& sum, Tensor& out, Tensor& log_sum) {
  const Plan plan(q, v, order, size, neighbors, repeat);
  by_dtype(q, [&](auto zero) {
    using T = decltype(zero);
    Forward<T>{plan,           Sizes<T>(plan), q.const_data_ptr<T>(), k.const_data_ptr<T>(),     v.const_data_ptr<T>(),
               pointer(shift), nullptr,        sum.data_ptr<float>(), log_sum.data_ptr<float>(), out.data_ptr<T>()}
        .run();
  });
}

// Raises `largest` (B, N) to each query's largest score, to base 2.
void largest_scores(const Tensor& q, const Tensor& k, const Tensor& order, int64_t size, int64_t neighbors, bool repeat,
                    Tensor& largest) {
  const Plan plan(q, k, order, size, neighbors, repeat);
  by_dtype(q, [&](auto zero) {
    using T = decltype(zero);
    Forward<T>{plan,    Sizes<T>(plan), q.const_data_ptr<T>(),     k.const_data_ptr<T>(),
               nullptr, nullptr,        largest.data_ptr<float>(), nullptr,
               nullptr, nullptr}
        .run();
  });
}

// Adds to `dk` and `dv`, writes `dq`: float32, of the shapes of q, k, v.
void backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& order,
              const Tensor& mean, const Tensor& log_sum, int64_t size, int64_t neighbors, bool repeat, Tensor& dq,
              Tensor& dk, Tensor& dv) {
  const Plan plan(q, v, order, size, neighbors, repeat);
  by_dtype(q, [&](auto zero) {
    using T = decltype(zero);
    Backward<T>{plan,
                Sizes<T>(plan),
                grad.const_data_ptr<T>(),
                q.const_data_ptr<T>(),
                k.const_data_ptr<T>(),
                v.const_data_ptr<T>(),
                mean.const_data_ptr<float>(),
                log_sum.const_data_ptr<float>(),
                dq.data_ptr<float>(),
                dk.data_ptr<float>(),
                dv.data_ptr<float>()}
        .run();
  });
}

// Codes (B, R, N) of projections (B, N, R, F).
void nearest(const Tensor& rotated, Tensor& codes) {
  nearest_vertices(rotated.const_data_ptr<float>(), rotated.size(0), rotated.size(1), rotated.size(2), rotated.size(3),
                   codes.data_ptr<int64_t>());
}

// The orders (..., N) of codes (..., N).
void order(const Tensor& codes, Tensor& orders) {
  const int64_t tokens = codes.size(-1);
  stable_orders(codes.const_data_ptr<int64_t>(), codes.numel() / tokens, tokens, orders.data_ptr<int64_t>());
}

// x (B, C, ...) and tokens (B, N, C) added into `out`, of the shape of x.
void add(const Tensor& x, const Tensor& tokens, double scale, Tensor& out) {
  add_tokens(x.const_data_ptr<float>(), tokens.const_data_ptr<float>(), static_cast<float>(scale), tokens.size(0),
             tokens.size(2), tokens.size(1), out.data_ptr<float>());
}

}  // namespace
}  // namespace sparse_attn

TORCH_LIBRARY(sparse_attn_native, library) {
  library.def("nearest(Tensor rotated, Tensor(a!) codes) -> ()", sparse_attn::nearest);
  library.def("order(Tensor codes, Tensor(a!) orders) -> ()", sparse_attn::order);
  library.def("add(Tensor x, Tensor tokens, float scale, Tensor(a!) out) -> ()", sparse_attn::add);
  library.def(
      "forward(Tensor q, Tensor k, Tensor v, Tensor order, int size, int neighbors, bool repeat, Tensor? shift, "
      "Tensor(a!) sum, Tensor(b!) out, Tensor(c!) log_sum) -> ()",
      sparse_attn::forward);
  library.def(
      "largest_scores(Tensor q, Tensor k, Tensor order, int size, int neighbors, bool repeat, Tensor(a!) largest) "
      "-> ()",
      sparse_attn::largest_scores);
  library.def(
      "backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor order, Tensor mean, Tensor log_sum, int size, "
      "int neighbors, bool repeat, Tensor(a!) dq, Tensor(b!) dk, Tensor(c!) dv) -> ()",
      sparse_attn::backward);
}
