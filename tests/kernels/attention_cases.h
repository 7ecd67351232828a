// Attention problems from tests/problems/attention.txt with their arrays, the exact result in double and an
// error bound for every output element, derived from the sizes and the data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cpu_kernels.h"

namespace aerogel::testing {

enum class Values : std::uint8_t { normal, large, identical, denormal };

struct AttentionCase {
    std::string line;  ///< as in the file
    AttentionProblem problem;
    bool bsnd = false;
    Values values = Values::normal;
    std::int64_t margin = 3;  ///< elements behind every row: NaN, or what must stay as it is
    BlockMask mask;           ///< used if problem.masked
};

/// One array of the call with NaN (inputs) or a pattern (output) in the margin after every token row.
struct PaddedArray {
    std::vector<std::byte> bytes;
    AttentionStrides strides;
    DType dtype = DType::f32;

    double get(std::int64_t index) const;
    void set(std::int64_t index, double value);  ///< rounds to dtype
};

/// All problems of the file; on an emulated CPU those that it has time for.
std::vector<AttentionCase> attention_cases();
/// One line of the file.
AttentionCase parse_attention_case(const std::string& line);

/// Inputs of a case and the exact output with its bounds, both [batch][heads][q_len][head_dim].
struct AttentionData {
    explicit AttentionData(const AttentionCase& which);

    const AttentionCase& test_case;
    PaddedArray q, k, v;
    std::vector<float> bias;  ///< of problem.biased: [heads, distances]
    std::vector<double> exact;
    std::vector<double> bound;
    std::vector<double> weight_rounding;  ///< what AttentionKernel::rounds_weights adds to the bound
    double weight_unit = 0x1p-9;          ///< of a number, the most that rounding a weight changes
    double product_error = 0.0;           ///< AttentionKernel::product_error, part of the bound
    std::vector<double> lse, lse_bound;   ///< [batch][heads][q_len]
    std::vector<double> keys;             ///< of k, [kv maps][head_dim][k_len]
    std::vector<double> values;           ///< of v, [kv maps][k_len][head_dim]

    /// First element of a row: of map `map` of q and o; kv_index() of k and v.
    std::int64_t index(const AttentionStrides& strides, std::int64_t map, std::int64_t token) const;
    std::int64_t kv_index(const AttentionStrides& strides, std::int64_t kv_map, std::int64_t token) const;
    /// Recomputes the vectors after an input changed.
    void solve();
    /// The same for a kernel with this error, where it is another one.
    void solve(const AttentionKernel& kernel);
};

/// All kernels of this CPU level for the problem.
KernelReferences<AttentionKernel> kernels_for(const AttentionProblem& problem);
/// A causal problem with a NaN in a later value. Queries are computed in tiles of up to 128, of which all
/// meet the keys that one of them sees: with a weight of 0, and 0 * NaN is NaN.
struct LaterNaN {
    explicit LaterNaN(const std::string& dtype);

    AttentionCase test_case;
    AttentionData data;
    /// Empty, or the first element of `o` that is NaN where it must not be, or the other way round.
    std::string compare(const PaddedArray& o) const;
};

/// The reference of a format.
const AttentionKernel& reference_of(AttentionFormat format);

/// A fresh output full of NaN.
PaddedArray make_output(const AttentionCase& test_case);
/// q, k, v and all else of the case, without o and workspace; of the format none.
AttentionCall call_of(const AttentionData& data);
/// Runs one kernel with a poisoned workspace; reports a damaged margin as a test failure.
PaddedArray run_attention(const AttentionKernel& kernel, const AttentionData& data);
PaddedArray run_attention(const AttentionKernel& kernel, const AttentionData& data,
                          const AttentionProblem& problem, AttentionCall call);
/// Empty, or the first element of `o` that is out of bounds.
std::string compare(const AttentionData& data, const PaddedArray& o, bool rounds_weights = false);
/// The same run with the log-sum-exp of every row, [maps, q_len]; `o` gets the output where it is given.
std::vector<float> run_for_lse(const AttentionKernel& kernel, const AttentionData& data,
                               AttentionProblem problem, AttentionCall call, PaddedArray* o = nullptr);
/// Empty, or the first that is out of bounds.
std::string compare_lse(const AttentionData& data, const std::vector<float>& lse);

}  // namespace aerogel::testing
