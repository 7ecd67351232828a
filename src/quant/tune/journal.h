// What was measured, in a file that grows as measuring goes on: an interrupted `tune` continues there, and
// another budget costs a few measurements instead of all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "quant/tune/tune.h"

namespace aerogel {

/// The subject of measurements on `inputs` inputs in `groups` groups of steps, on which the unchanged model
/// gives `outputs` (a hash).
std::string tune_subject(int groups, std::size_t inputs, const std::string& outputs);
/// Before there are outputs: InvalidArgument for a file of other numbers of groups and inputs, and for one
/// that is no such file.
void check_tune_journal(const std::filesystem::path& path, int groups, std::size_t inputs);

class TuneJournal {
  public:
    /// Without a path nothing is kept. `subject` says of which model and inputs the figures are. IoError;
    /// InvalidArgument for a file of another subject, and for one that is no such file.
    TuneJournal(std::filesystem::path path, std::string subject);
    /// Writes what is not written yet, as well as it can.
    ~TuneJournal();
    TuneJournal(const TuneJournal&) = delete;
    TuneJournal& operator=(const TuneJournal&) = delete;

    std::optional<std::vector<double>> find(const std::string& key) const;
    /// Writes the file from time to time. Keeps nothing where a figure is no finite number >= 0. IoError.
    void add(const std::string& key, std::vector<double> figures);
    /// Writes the file. IoError.
    void write();
    /// The errors of a mixture: those in the journal, else those of `measure`, which come into it.
    StepErrors errors(const TuneProblem& problem, const Mixture& mixture,
                      const std::function<StepErrors(const Mixture&)>& measure);

  private:
    std::filesystem::path path_;
    std::string subject_;
    std::map<std::string, std::vector<double>> figures_;
    bool written_ = true;
    Clock::time_point last_ = {};  // of the last write: the first figures are written at once
};

}  // namespace aerogel
