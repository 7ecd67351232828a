// The journal is text: a first line with the key, then the notes. A line counts once its end is there.
#include "core/resumable_file.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "aerogel/error.h"
#include "core/atomic_file.h"

namespace aerogel {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kTitle = "aerogel journal 1 ";
constexpr std::uint64_t kLargestJournal = std::uint64_t{1} << 28;

fs::path with_ending(fs::path path, const char* ending) {
    path += ending;
    return path;
}

// The lines of `text`, without what comes after the last end of a line; `end` is where that begins.
std::vector<std::string> whole_lines(std::string_view text, std::uint64_t& end) {
    std::vector<std::string> lines;
    end = 0;
    for (std::size_t next = text.find('\n'); next != std::string_view::npos; next = text.find('\n', end)) {
        lines.emplace_back(text.substr(end, next - end));
        end = next + 1;
    }
    return lines;
}

}  // namespace

fs::path journal_path_of(const fs::path& path) {
    return with_ending(path, ".journal");
}

fs::path part_path_of(const fs::path& path) {
    return with_ending(path, ".part");
}

ResumableFile::ResumableFile(fs::path path, std::string_view key, std::uint64_t size)
    : path_(std::move(path)), part_(part_path_of(path_)), journal_path_(journal_path_of(path_)) {
    check_file_name(path_);
    open_journal(key);
    const bool there = fs::exists(part_) && !notes_.empty();
    file_.emplace(part_, path_, there ? OutputFile::Content::kept : OutputFile::Content::none);
    if (!there || file_->size() != size) {
        notes_.clear();
        open_journal(key);
        file_->resize(size);
    }
    file_->reserve(size);
}

// Reads the notes of the same key, or begins a new journal.
void ResumableFile::open_journal(std::string_view key) {
    if (!journal_) {
        journal_.emplace(journal_path_, path_, OutputFile::Content::kept);
        if (!journal_->lock()) {
            throw IoError("[write] " + path_.string() + ": another process is writing it (it holds " +
                          journal_path_.string() + ")");
        }
        std::string text(static_cast<std::size_t>(std::min(journal_->size(), kLargestJournal)), '\0');
        journal_->read_at(0, text.data(), text.size());
        notes_ = whole_lines(text, journal_end_);
    }
    const std::string title = std::string(kTitle) + std::string(key);
    if (!notes_.empty() && notes_.front() == title) {
        notes_.erase(notes_.begin());
        journal_->resize(journal_end_);
        return;
    }
    notes_.clear();
    journal_->resize(0);
    journal_end_ = 0;
    note(title);
}

void ResumableFile::note(std::string_view line) {
    const std::string text = std::string(line) + "\n";
    journal_->write_at(journal_end_, text.data(), text.size());
    journal_end_ += text.size();
}

void ResumableFile::write_at(std::uint64_t offset, const void* data, std::size_t size) {
    file_->write_at(offset, data, size);
}

void ResumableFile::read_at(std::uint64_t offset, void* data, std::size_t size) const {
    file_->read_at(offset, data, size);
}

void ResumableFile::start_writing(std::uint64_t offset, std::uint64_t size) {
    file_->start_writing(offset, size);
}

void ResumableFile::commit() {
    file_->close_synced();
    rename_synced(part_, path_);
}

void ResumableFile::forget() {
    std::error_code ignored;
    fs::remove(part_, ignored);
    fs::remove(journal_path_, ignored);
}

}  // namespace aerogel
