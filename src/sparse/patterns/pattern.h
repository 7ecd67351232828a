// A pattern says in which order a head's queries and keys are laid out, into which cells they are cut, and
// which cells of the attention map are computed. A type is what a user asks for by name: one pattern for all
// heads, or several, of which each head is recognised as one. The table (table.cpp) lists every type there is
// with what it can do: a new one is a file here and a row there. Checks, flags and Python read the row.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/context.h"
#include "aerogel/sparse_attention.h"
#include "base/function_ref.h"
#include "sparse/geometry.h"
#include "sparse/head_rows.h"
#include "sparse/token_order.h"

namespace aerogel {

struct PlanTables;

/// What a pattern that looks at the content sees: q and k in its order, where the tables lie, scale > 0.
struct ContentInput {
    const SparseSides& sides;
    const PlanTables& tables;
    const SparsePattern& pattern;
    HeadRows q;
    HeadRows k;  ///< as many heads or a divisor of them, see kv_map()
    float scale;
    bool causal;
    Context context;
};

struct HeadPattern {
    std::string_view name;  ///< of a head of this kind
    /// Order of the queries (and outputs), order of the keys (and values); null: as they come.
    TokenOrder (*q_order)(const SparseGeometry& side) = nullptr;
    TokenOrder (*k_order)(const SparseGeometry& side) = nullptr;
    Cells (*cells)(const SparseGeometry& side);
    /// The kept cells when they depend neither on content nor on a given mask, else null. q and k are alike.
    BlockGrid (*static_blocks)(const SparseGeometry& side) = nullptr;
    /// The kept cells, chosen by the content, else null: [maps, query cells, key cells] of 0 and 1, where the
    /// tables lie. On the CPU, InvalidArgument where q or k is not finite; elsewhere nobody waits for such
    /// news, and a row of cells is kept whole where its scores are not finite.
    void (*content_cells)(const ContentInput& input, std::uint8_t* grid) = nullptr;
    bool strides = false;  ///< content_cells needs strided_products of devices other than the CPU
};

/// What a type makes of a VideoLayout: nothing; whatever there is; one video, or several, that it needs.
enum class Videos : std::uint8_t { ignored, optional, one, several };

inline constexpr std::array kEveryTypesFormats = {AttentionFormat::none, AttentionFormat::int8,
                                                  AttentionFormat::int8_qk};

/// A type and what it can do; what a row does not name, the type cannot.
struct SparseTypeRow {
    std::string_view name;
    /// Of its heads. Several: static ones with the same cells, of which each head is recognised as one.
    std::array<const HeadPattern*, 4> heads;
    /// Members of SparsePattern that it looks at, see parameters.h.
    std::array<std::string_view, 8> reads;
    Videos videos = Videos::optional;
    bool lengths_differ = false;  ///< q and k may differ in length
    bool takes_mask = false;      ///< SparsePlanOptions::mask
    bool own_key_blocks = false;  ///< SparsePattern::block_size_kv
    bool causal = false;          ///< AttentionOptions::causal
    std::int64_t block_step = 1;  ///< block sizes are multiples of this
    /// In which the kept blocks may be computed.
    std::span<const AttentionFormat> formats = kEveryTypesFormats;

    bool needs_video() const { return videos == Videos::one || videos == Videos::several; }
    /// Finds out for each head which of its patterns that is.
    bool recognises() const { return heads[1] != nullptr; }
    /// Makes masks by itself.
    bool predicts() const { return heads[0]->static_blocks != nullptr || heads[0]->content_cells != nullptr; }
    std::span<const HeadPattern* const> head_patterns() const;
    /// Its pattern of this name, or that of dense heads; null when there is none.
    const HeadPattern* head_pattern(std::string_view head) const;
    bool looks_at(std::string_view parameter) const;
    bool computes_in(AttentionFormat format) const;
};

std::span<const SparseTypeRow> sparse_type_rows();
/// InvalidArgument listing the names when there is none of this name.
const SparseTypeRow& sparse_type_row(std::string_view name);
/// "rf_v2, rf_v3 and ada_bsa": the types for which `holds` is true.
std::string types_that(FunctionRef<bool(const SparseTypeRow&)> holds, std::string_view word = "and");

}  // namespace aerogel
