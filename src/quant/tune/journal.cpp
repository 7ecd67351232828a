// The journal as JSON: {"tune": 1, "subject": ..., "figures": {key: [numbers]}}.
#include "quant/tune/journal.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "aerogel/error.h"
#include "core/atomic_file.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/paths.h"

namespace aerogel {
namespace {

// "blocks.0.attn1.to_q=W4A8" of one module, a hash of such parts for several.
std::string key_of(const TuneProblem& problem, const Mixture& mixture) {
    std::string text;
    int count = 0;
    for (std::size_t m = 0; m < mixture.size(); ++m) {
        if (mixture[m] == 0) continue;
        const TuneModule& module = problem.modules[m];
        text += fmt::format("{}{}={}", count++ == 0 ? "" : ";", module.name,
                            module.choices[static_cast<std::size_t>(mixture[m])].name);
    }
    return count <= 1 ? text : fmt::format("{} modules {:016x}", count, hash_text(text));
}

std::string tune_cut(int groups, std::size_t inputs) {
    return fmt::format("{} groups of {} inputs", groups, inputs);
}

struct Content {
    std::string subject;
    std::map<std::string, std::vector<double>> figures;
};

Content read_content(const std::filesystem::path& path) {
    const JsonNode root = JsonNode::read(path, "tune");
    root.at("tune").whole({1, 1});
    Content content{root.at("subject").text(), {}};
    const JsonNode figures = root.at("figures");
    if (!figures.is_object()) figures.fail("an object");
    constexpr double kMost = std::numeric_limits<double>::max();
    for (const auto& [key, value] : figures.json().items()) {
        std::vector<double> numbers;
        for (const JsonNode& item : figures.at(key).items()) numbers.push_back(item.number(0.0, kMost));
        if (numbers.empty()) figures.at(key).fail("at least one number");
        content.figures[key] = std::move(numbers);
    }
    return content;
}

}  // namespace

std::string tune_subject(int groups, std::size_t inputs, const std::string& outputs) {
    return fmt::format("{}, outputs {}", tune_cut(groups, inputs), outputs);
}

void check_tune_journal(const std::filesystem::path& path, int groups, std::size_t inputs) {
    if (path.empty() || !path_exists(path)) return;
    const std::string subject = read_content(path).subject, cut = tune_cut(groups, inputs);
    if (subject.starts_with(cut + ",")) return;
    throw InvalidArgument(
        fmt::format("[tune] {} holds measurements of {}, not of {}: remove it, or name another file",
                    path.string(), subject.substr(0, subject.find(',')), cut));
}

TuneJournal::TuneJournal(std::filesystem::path path, std::string subject)
    : path_(std::move(path)), subject_(std::move(subject)) {
    if (path_.empty() || !path_exists(path_)) return;
    Content content = read_content(path_);
    if (content.subject != subject_) {
        throw InvalidArgument(
            fmt::format("[tune] {} holds measurements of another model or of other inputs ({}, these "
                        "are {}): remove it, or name another file",
                        path_.string(), content.subject, subject_));
    }
    figures_ = std::move(content.figures);
}

TuneJournal::~TuneJournal() {
    try {
        write();
    } catch (const std::exception&) {
        return;  // what was written before stays
    }
}

std::optional<std::vector<double>> TuneJournal::find(const std::string& key) const {
    const auto found = figures_.find(key);
    return found == figures_.end() ? std::nullopt : std::optional(found->second);
}

void TuneJournal::add(const std::string& key, std::vector<double> figures) {
    constexpr double kSeconds = 5.0;
    for (const double figure : figures)
        if (!std::isfinite(figure) || figure < 0.0) return;
    figures_[key] = std::move(figures);
    written_ = false;
    if (seconds_since(last_) > kSeconds) write();
}

void TuneJournal::write() {
    if (written_ || path_.empty()) return;
    const nlohmann::ordered_json json = {{"tune", 1}, {"subject", subject_}, {"figures", figures_}};
    write_file_atomically(path_, dump_json(json, 1) + "\n");
    written_ = true;
    last_ = Clock::now();
}

StepErrors TuneJournal::errors(const TuneProblem& problem, const Mixture& mixture,
                               const std::function<StepErrors(const Mixture&)>& measure) {
    const std::string key = key_of(problem, mixture);
    if (const auto known = find(key)) return *known;
    StepErrors errors = measure(mixture);
    add(key, errors);
    return errors;
}

}  // namespace aerogel
