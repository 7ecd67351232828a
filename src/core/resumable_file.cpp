// The journal is text: a first line with the key, then the notes. A line counts once its end is there.
#include "core/resumable_file.h"

#include <algorithm>
#include <utility>

#include "aerogel/error.h"
#include "core/atomic_file.h"
#include "core/paths.h"

namespace aerogel {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kTitle = "aerogel journal 1 ";
constexpr std::string_view kComplete = "complete";  // the note before the final name is given
constexpr std::uint64_t kLargestJournal = std::uint64_t{1} << 28;

using Opening = OutputFile::Opening;

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

ResumableFile::ResumableFile(fs::path path)
    : path_(std::move(path)), part_(part_path_of(path_)), journal_path_(journal_path_of(path_)) {
    check_file_name(path_);
    lock_journal();
}

// The process before us removes its journal when it is done: a lock on a file without a name protects
// nothing.
void ResumableFile::lock_journal() {
    do {
        journal_ = std::make_unique<OutputFile>(journal_path_, path_, Opening::made);
        if (journal_->lock() == OutputFile::Lock::busy) {
            throw IoError("[write] " + path_.string() + ": another process is writing it (it holds " +
                          journal_path_.string() + ")");
        }
    } while (!journal_->is_in_place());
}

void ResumableFile::begin(const std::string& key, std::uint64_t size) {
    try {
        take_notes(key);
        open_bytes(key, size);
    } catch (...) {
        if (begun_) forget();
        throw;
    }
}

// Reads the notes of the same key, or begins a new journal.
void ResumableFile::take_notes(const std::string& key) {
    std::string text(static_cast<std::size_t>(std::min(journal_->size(), kLargestJournal)), '\0');
    journal_->read_at(0, text.data(), text.size());
    notes_ = whole_lines(text, journal_end_);
    if (!key.empty() && !notes_.empty() && notes_.front() == std::string(kTitle) + key) {
        notes_.erase(notes_.begin());
        journal_->resize(journal_end_);
        return;
    }
    begin_journal(key);
}

void ResumableFile::begin_journal(const std::string& key) {
    begun_ = true;
    notes_.clear();
    journal_->resize(0);
    journal_end_ = 0;
    note(std::string(kTitle) + key);
}

// A run that ended after it gave the final name left the bytes there.
void ResumableFile::open_bytes(const std::string& key, std::uint64_t size) {
    const auto keeps = [&](const fs::path& path) {
        if (notes_.empty() || !is_file(path)) return false;
        file_ = std::make_unique<OutputFile>(path, path_, Opening::old_only);
        return file_->size() == size;
    };
    committed_ = !notes_.empty() && notes_.back() == kComplete && !path_exists(part_) && keeps(path_);
    if (committed_ || keeps(part_)) return;
    if (!notes_.empty()) begin_journal(key);
    file_ = std::make_unique<OutputFile>(part_, path_, Opening::made);
    file_->resize(0);
    file_->reserve(size);
    file_->resize(size);
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
    file_->sync();
    if (!committed_) {
        note(kComplete);
        journal_->sync();
        rename_file(part_, path_);
        committed_ = true;
    }
    sync_folder_of(path_);
    file_->close();
}

void ResumableFile::forget() {
    if (!committed_) remove_file(part_);
    remove_file(journal_path_);
}

}  // namespace aerogel
