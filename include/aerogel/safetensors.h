// Reading and writing safetensors. The reader maps files into memory and joins the shards of a
// "*.safetensors.index.json"; the writer streams one tensor after the other into a temporary file that
// takes its final name only when complete.
// layer: core
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "aerogel/tensor.h"

namespace aerogel {

/// Name, type and shape of a tensor, known before its bytes are.
struct TensorInfo {
    std::string name = {};
    DType dtype = DType::f32;
    Shape shape = {};

    std::size_t bytes() const { return static_cast<std::size_t>(element_count(shape)) * size_of(dtype); }
};

/// A mapped safetensors file, all the shards of an index, or tensors in memory, as one set of named tensors.
/// Copies share it. Safe from several threads. One that nothing was opened for gives InvalidArgument.
class SafetensorsFile {
  public:
    /// Opens a ".safetensors" file or a ".safetensors.index.json". Throws IoError when it cannot be
    /// read and InvalidArgument (file, what is wrong, expected, got) on anything malformed.
    static SafetensorsFile open(const std::filesystem::path& path);
    /// Tensors in memory as if they were a file, in this order; their storage is shared. `name` stands for
    /// the path. InvalidArgument when two have the same name.
    static SafetensorsFile of_tensors(const std::string& name,
                                      std::vector<std::pair<std::string, Tensor>> tensors);

    /// Names in file order (shards in the order of their names).
    const std::vector<std::string>& names() const;
    bool contains(const std::string& name) const;
    /// Throws InvalidArgument naming the nearest existing name if there is no such tensor.
    const TensorInfo& info(const std::string& name) const;
    /// The tensor over the mapped bytes (no copy); it keeps the mapping alive. Read-only memory. If the file
    /// is shortened in the meantime, the lost bytes read as zeros and check_intact() throws.
    Tensor tensor(const std::string& name) const;
    /// Asks the system to begin reading the tensor's bytes, without waiting for them.
    void prefetch(const std::string& name) const;
    /// Takes the mapped bytes of the tensor out of this process's memory; they are read again when touched.
    void release(const std::string& name) const;
    /// To be called after tensors were used: IoError when a file has been shortened since it was opened.
    void check_intact() const;
    /// The "__metadata__" strings (merged over shards).
    const std::map<std::string, std::string>& metadata() const;
    const std::filesystem::path& path() const;
    /// The file, or all the shards of the index.
    const std::vector<std::filesystem::path>& files() const;

  private:
    struct State;
    const State& state() const;
    std::shared_ptr<const State> state_;
};

/// Writes a safetensors file: all tensors are announced first and then written in that order.
class SafetensorsWriter {
  public:
    /// Opens "<path>.tmp" next to the target and writes the header. InvalidArgument for tensors that a file
    /// cannot hold; IoError, here and below.
    SafetensorsWriter(const std::filesystem::path& path, const std::vector<TensorInfo>& tensors,
                      const std::map<std::string, std::string>& metadata = {});
    /// Removes the temporary file if finish() was not reached.
    ~SafetensorsWriter();
    SafetensorsWriter(const SafetensorsWriter&) = delete;
    SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

    /// Writes the next tensor in the announced order, contiguous and in the CPU's memory; InvalidArgument
    /// when name, dtype or shape differ.
    void write(const std::string& name, const TensorView& tensor);
    /// Checks that all tensors were written, syncs the file and gives it its final name; once.
    void finish();

  private:
    struct State;
    std::unique_ptr<State> state_;
};

/// Convenience: writes the named tensors (in map order) as one file.
void save_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace aerogel
