// GGUF files (ggml's docs/gguf.md): a header of key-value pairs and tensor entries, then the data. Parsing
// with every check that a hostile file needs; what the blocks of a type mean is said in
// formats/gguf_blocks.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "aerogel/tensor.h"
#include "core/mapped_file.h"

namespace aerogel {

/// A type of tensors: rows are cut into blocks of so many numbers, each stored in so many bytes. Those that
/// Aerogel reads are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K .. Q6_K.
struct GgufType {
    std::uint32_t number;  ///< in the file
    std::string_view name;
    std::int64_t block;
    std::int64_t block_bytes;
};

struct GgufTensor {
    std::string name;
    const GgufType* type = nullptr;
    Shape shape;              ///< the outermost axis first; the last one is a multiple of type->block
    std::uint64_t begin = 0;  ///< in the file
    std::uint64_t bytes = 0;
};

struct GgufHeader {
    std::uint32_t version = 0;
    std::vector<GgufTensor> tensors;  ///< in the order of the header
    /// Strings as they are, numbers and booleans as text, arrays as "12 x string".
    std::map<std::string, std::string> metadata;
};

/// Parses and checks the header of the file whose bytes are `file`; `name` is for the errors. InvalidArgument
/// (file, what, expected, got) on anything that is not a well-formed little-endian GGUF file of version 2 or
/// 3; Unsupported for types of tensors that Aerogel does not read.
GgufHeader parse_gguf(std::span<const std::byte> file, const std::string& name);

/// A mapped GGUF file.
class GgufFile {
  public:
    /// As parse_gguf(); IoError.
    static GgufFile open(const std::filesystem::path& path);

    const std::filesystem::path& path() const { return path_; }
    const GgufHeader& header() const { return header_; }
    bool contains(const std::string& name) const { return places_.count(name) != 0; }
    /// InvalidArgument naming the nearest existing name if there is no such tensor.
    const GgufTensor& tensor(const std::string& name) const;
    /// The stored bytes of a tensor, as long as bytes_owner() lives.
    std::span<const std::byte> bytes(const GgufTensor& tensor) const;
    std::shared_ptr<const void> bytes_owner() const { return file_; }
    /// As those of SafetensorsFile.
    void prefetch(const GgufTensor& tensor) const;
    void release(const GgufTensor& tensor) const;
    void check_intact() const;

  private:
    std::filesystem::path path_;
    std::shared_ptr<const MappedFile> file_;
    GgufHeader header_;
    std::unordered_map<std::string, std::size_t> places_;
};

}  // namespace aerogel
