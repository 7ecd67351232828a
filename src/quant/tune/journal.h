// What was measured, in a file that grows as measuring goes on: an interrupted `tune` continues there, and
// another budget costs a few measurements instead of all.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "quant/tune/tune.h"

namespace aerogel {

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
    /// Writes the file from time to time. IoError.
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
