// Choosing layers by name: shell patterns over full module names ("blocks.*.ffn.{net.0.proj,net.2}").
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace aerogel {

/// The Linears of a DiT that are quantized unless told otherwise: attention and feed-forward of every
/// block. Embeddings, time and text projections and the output layer stay float: they are small and the
/// quality hangs on them.
inline constexpr std::string_view kDefaultLayers = "blocks.*.{attn1,attn2,ffn}.*";

/// NamePattern(pattern).matches(name).
bool matches(std::string_view pattern, std::string_view name);

/// The names that match any include pattern and no exclude pattern, in the given order. InvalidArgument
/// for a pattern that matches no name at all (naming near ones) and when nothing is left.
std::vector<std::string> select_layers(const std::vector<std::string>& names,
                                       const std::vector<std::string>& include,
                                       const std::vector<std::string>& exclude);

/// Self-attention of every block, in the names of diffusers and of Wan: what is quantized unless told
/// otherwise.
inline constexpr std::string_view kDefaultAttentions = "*.{attn1,self_attn}";

/// "blocks.0.attn1" of "blocks.0.attn1.to_q", or of ".q" in Wan's names, or of Flux2's ".to_qkv_mlp_proj":
/// the attention whose queries this Linear makes; empty for other Linears.
std::string attention_of_queries(const std::string& linear);

/// The names of attention modules that match any pattern (none given: kDefaultAttentions). InvalidArgument
/// for a pattern that matches none.
std::vector<std::string> select_attentions(const std::vector<std::string>& names,
                                           std::vector<std::string> patterns);

}  // namespace aerogel
