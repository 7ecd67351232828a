// From arrays of a device to a plan of the host.
#include "sparse/planned_arrays.h"

#include <algorithm>
#include <utility>

#include "aerogel/sparse_config.h"

namespace aerogel {

HeadFacts::HeadFacts(std::shared_ptr<const PlanTables> of, std::int64_t map_count, bool has_recalls,
                     bool has_choice)
    : tables(std::move(of)), maps(map_count), recognised(has_recalls), chosen(has_choice) {
    const std::int64_t each = (recognised ? tables->choices() * 8 : 0) + 8 + (chosen ? 4 : 0);
    bytes = Tensor(DType::u8, {maps * each}, tables->device);
}

double* HeadFacts::recalls(const void* at) const {
    return static_cast<double*>(const_cast<void*>(at));
}

std::int64_t* HeadFacts::kept(const void* at) const {
    return reinterpret_cast<std::int64_t*>(recalls(at) + (recognised ? maps * tables->choices() : 0));
}

std::int32_t* HeadFacts::choice(const void* at) const {
    return reinterpret_cast<std::int32_t*>(kept(at) + maps);
}

std::vector<SparseHead> HeadFacts::heads() const {
    const Tensor here = bytes.to(Device::cpu);
    std::vector<SparseHead> heads(static_cast<std::size_t>(maps));
    for (std::int64_t map = 0; map < maps; ++map) {
        SparseHead& head = heads[static_cast<std::size_t>(map)];
        const std::size_t pattern = chosen ? static_cast<std::size_t>(choice(here.data())[map]) : 0;
        head.type = tables->patterns[pattern]->name;
        head.density = static_cast<double>(kept(here.data())[map]) / scores_of_map;
        if (!recognised) continue;
        const double* shares = recalls(here.data()) + map * tables->choices();
        head.recall = pattern < static_cast<std::size_t>(tables->choices())
                          ? shares[pattern]
                          : *std::max_element(shares, shares + tables->choices());
        for (std::int64_t i = 0; i < tables->choices(); ++i)
            head.recalls.emplace_back(tables->patterns[static_cast<std::size_t>(i)]->name, shares[i]);
    }
    return heads;
}

namespace {

// Heads of one pattern share their orders.
void add_orders(const PlanTables& tables, SparsePlan& plan) {
    std::vector<std::size_t> in_use;
    for (const SparseHead& head : plan.heads) {
        const auto pattern = static_cast<std::size_t>(
            std::find_if(tables.patterns.begin(), tables.patterns.end(),
                         [&](const HeadPattern* each) { return each->name == head.type; }) -
            tables.patterns.begin());
        const auto found = std::find(in_use.begin(), in_use.end(), pattern);
        plan.order_of.push_back(static_cast<std::size_t>(found - in_use.begin()));
        if (found != in_use.end()) continue;
        in_use.push_back(pattern);
        if (!tables.q.orders.empty())
            plan.orders.push_back({tables.q.orders[pattern], tables.k.orders[pattern]});
    }
}

void add_mask(const PlannedArrays& arrays, BlockMask& mask) {
    const Tensor starts = arrays.row_start.to(Device::cpu), ends = arrays.row_end.to(Device::cpu),
                 columns = arrays.columns.to(Device::cpu);
    mask = arrays.sizes;
    mask.row_start.assign(1, 0);
    const std::int64_t lists = mask.batch * mask.heads * mask.q_blocks();
    const auto *start = values_of<std::int64_t>(starts), *end = values_of<std::int64_t>(ends);
    const auto* all = values_of<std::int32_t>(columns);
    for (std::int64_t list = 0; list < lists; ++list)
        mask.row_start.push_back(mask.row_start.back() + end[list] - start[list]);
    mask.columns.reserve(static_cast<std::size_t>(mask.row_start.back()));
    for (std::int64_t list = 0; list < lists; ++list)
        mask.columns.insert(mask.columns.end(), all + start[list], all + end[list]);
}

}  // namespace

std::string dense_because(const HeadFacts& facts, const std::vector<SparseHead>& heads) {
    const bool all_dense =
        std::all_of(heads.begin(), heads.end(), [](const SparseHead& head) { return head.type == "dense"; });
    if (!all_dense) return "";
    return facts.recognised ? "every head is under min_recall" : "every head is given as dense";
}

void read_plan(const PlannedArrays& arrays, SparsePlan& plan) {
    plan.heads = arrays.facts->heads();
    plan.dense_because = dense_because(*arrays.facts, plan.heads);
    if (!plan.dense_because.empty()) return;
    add_orders(*arrays.facts->tables, plan);
    add_mask(arrays, plan.mask);
}

void SparseReport::read() {
    if (on_device == nullptr) return;
    heads = on_device->heads();
    dense_because = aerogel::dense_because(*on_device, heads);
    on_device.reset();
}

}  // namespace aerogel
