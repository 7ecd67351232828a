// The temporary name and the order of the last steps.
#include "core/atomic_file.h"

#include <unistd.h>

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

#include "aerogel/error.h"

namespace aerogel {

void check_file_name(const std::filesystem::path& path) {
    if (!path.has_filename()) throw IoError("[write] '" + path.string() + "' is not a file name");
    if (std::error_code ignored; std::filesystem::is_directory(path, ignored)) {
        throw IoError("[write] " + path.string() + ": cannot create: Is a directory");
    }
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
    check_file_name(path_);
    temporary_ = path_;
    temporary_ += ".tmp." + std::to_string(::getpid());
    file_.emplace(temporary_, path_, OutputFile::Content::none);
}

AtomicFile::~AtomicFile() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::reserve(std::uint64_t size) {
    file_->reserve(size);
}

void AtomicFile::write_at(std::uint64_t offset, const void* data, std::size_t size) {
    file_->write_at(offset, data, size);
    end_ = std::max(end_, offset + size);
}

void AtomicFile::write(std::string_view text) {
    write_at(end_, text.data(), text.size());
}

void AtomicFile::commit() {
    file_->close_synced();
    rename_synced(temporary_, path_);
    temporary_.clear();
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
    AtomicFile file(path);
    file.write(text);
    file.commit();
}

}  // namespace aerogel
