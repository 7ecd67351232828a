// The weight file of an export while it is written: units of tensors (a layer, or one copied tensor) at their
// places, each noted with a checksum once it is finished, so that another run can go on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "aerogel/safetensors.h"
#include "core/resumable_file.h"
#include "core/safetensors_header.h"

namespace aerogel {

class ExportFile {
  public:
    using Units = std::vector<std::vector<TensorInfo>>;

    /// All tensors by unit, in the order of the header. Locks the file; begin() comes first then, its `key`
    /// see ResumableFile. InvalidArgument, IoError.
    ExportFile(const std::filesystem::path& path, const Units& units);
    void begin(const std::string& key);

    /// The error noted for a unit that an earlier run finished and whose bytes are as it left them.
    std::optional<double> finished(std::size_t unit) const;
    /// Writes the tensors of a unit as announced, and notes it with that error.
    void write(std::size_t unit, const std::vector<Tensor>& tensors, double error);
    /// Gives the file its final name; forget() then ends the export.
    void commit() { file_->commit(); }
    bool committed() const { return file_->committed(); }
    void forget() { file_->forget(); }

  private:
    struct Note {
        std::uint64_t checksum = 0;
        double error = 0.0;
    };
    void read_notes();

    std::vector<std::size_t> first_entry_;  // of each unit, and the number of all
    std::vector<SafetensorsEntry> entries_;
    std::uint64_t data_begin_ = 0;
    std::string header_;
    std::optional<ResumableFile> file_;
    std::map<std::size_t, Note> notes_;
};

}  // namespace aerogel
