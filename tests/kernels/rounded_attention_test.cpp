// Every kernel of the rounding formats against the exact result of the rounded q, k and v, within the bounds
// of float attention; tokens in any order; any number of threads.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "aerogel/cancellation.h"
#include "aerogel/number_types.h"
#include "aerogel/threads.h"
#include "formats/mx.h"
#include "kernels/attention_cases.h"
#include "kernels/attention_rounding.h"
#include "kernels/shuffled_tokens.h"

namespace aerogel::testing {
namespace {

constexpr std::int64_t kQueryTokens = 48, kKeyTokens = 80;

const std::vector<AttentionFormat> kFormats = {AttentionFormat::fp8, AttentionFormat::mxfp8,
                                               AttentionFormat::mxfp4, AttentionFormat::mix,
                                               AttentionFormat::int8_qk};

AttentionProblem in_format(const AttentionCase& test_case, AttentionFormat format) {
    AttentionProblem problem = test_case.problem;
    problem.format = format;
    return problem;
}

AttentionCall rounding_call(const AttentionData& data) {
    AttentionCall call = call_of(data);
    call.q_tokens = kQueryTokens;
    call.k_tokens = kKeyTokens;
    call.v_tokens = kKeyTokens;
    call.v_channels = data.test_case.problem.head_dim;
    return call;
}

/// Applies round(rows) to a copy of the array.
template <typename Round>
void change(AttentionData& data, PaddedArray& array, const Round& round) {
    const AttentionProblem& p = data.test_case.problem;
    const bool of_q = &array == &data.q;
    const std::int64_t maps = of_q ? p.maps() : p.kv_maps(), tokens = of_q ? p.q_len : p.k_len;
    const auto at = [&](std::int64_t row) {
        return of_q ? data.index(array.strides, row / tokens, row % tokens)
                    : data.kv_index(array.strides, row / tokens, row % tokens);
    };
    std::vector<float> values;
    for (std::int64_t i = 0; i < maps * tokens * p.head_dim; ++i)
        values.push_back(static_cast<float>(array.get(at(i / p.head_dim) + i % p.head_dim)));
    round(RoundedRows{values.data(), maps, tokens, p.head_dim});
    for (std::int64_t i = 0; i < maps * tokens * p.head_dim; ++i)
        array.set(at(i / p.head_dim) + i % p.head_dim,
                  static_cast<double>(values[static_cast<std::size_t>(i)]));
}

void round_all(AttentionData& data, AttentionFormat format) {
    const bool int8_qk = format == AttentionFormat::int8_qk;
    change(data, data.k, int8_qk ? subtract_int8_means : subtract_means);
    if (format == AttentionFormat::fp8 || format == AttentionFormat::mix || int8_qk) {
        const auto rounds = [&](const RoundedRows& x, std::int64_t tokens) {
            return format == AttentionFormat::fp8 ? round_fp8(x, tokens) : round_int8(x, tokens);
        };
        change(data, data.q, [&](const RoundedRows& x) { rounds(x, kQueryTokens); });
        change(data, data.k, [&](const RoundedRows& x) { rounds(x, kKeyTokens); });
        if (int8_qk) return;
        if (format == AttentionFormat::mix) return change(data, data.v, round_fp8_channels);
        return change(data, data.v, [&](const RoundedRows& x) { round_fp8(x, kKeyTokens); });
    }
    const MxElement element = format == AttentionFormat::mxfp8 ? MxElement::e4m3 : MxElement::e2m1;
    for (PaddedArray* array : {&data.q, &data.k})
        change(data, *array, [&](const RoundedRows& x) { round_mx(x, element, MxAxis::channels); });
    change(data, data.v, [&](const RoundedRows& x) { round_mx(x, element, MxAxis::tokens); });
}

/// The arrays of a case, with what is exact for a format instead of what is exact for them.
AttentionData expected_in(const AttentionCase& test_case, AttentionFormat format) {
    AttentionData data(test_case), rounded(test_case);
    round_all(rounded, format);
    rounded.solve();
    data.exact = rounded.exact;
    data.bound = rounded.bound;
    data.lse = rounded.lse;
    data.lse_bound = rounded.lse_bound;
    return data;
}

TEST(RoundedAttentionKernels, AllProblemsWithinBounds) {
    std::size_t next = 0;
    for (const AttentionCase& test_case : attention_cases()) {
        if (test_case.problem.biased || test_case.problem.dtype != DType::f32) continue;
        const AttentionFormat format = kFormats[next++ % kFormats.size()];
        const AttentionProblem problem = in_format(test_case, format);
        const AttentionData data = expected_in(test_case, format);
        for (const AttentionKernel& kernel : kernels_for(problem)) {
            PaddedArray o;
            const auto lse = run_for_lse(kernel, data, problem, rounding_call(data), &o);
            EXPECT_EQ(compare(data, o), "") << kernel.name << " " << to_string(format);
            EXPECT_EQ(compare_lse(data, lse), "") << kernel.name << " " << to_string(format);
        }
    }
}

TEST(RoundedAttentionKernels, OtherFormatsAndBlocksAreCaught) {
    const AttentionCase test_case =
        parse_attention_case("heads=2 kv_heads=1 q_len=100 k_len=170 head_dim=64");
    for (const AttentionFormat format : kFormats) {
        const AttentionData data = expected_in(test_case, format);
        for (const AttentionFormat other : kFormats) {
            const AttentionProblem problem = in_format(test_case, other);
            const PaddedArray o = run_attention(reference_of(other), data, problem, rounding_call(data));
            EXPECT_EQ(compare(data, o).empty(), other == format) << to_string(format) << to_string(other);
        }
    }
    const AttentionData data = expected_in(test_case, AttentionFormat::fp8);
    AttentionCall call = rounding_call(data);
    call.k_tokens = 64;
    const AttentionProblem problem = in_format(test_case, AttentionFormat::fp8);
    EXPECT_NE(compare(data, run_attention(reference_of(AttentionFormat::fp8), data, problem, call)), "");
}

TEST(RoundedAttentionKernels, TokensInAnyOrderAndThreadsGiveTheSameBits) {
    const int before = num_threads();
    for (const char* line :
         {"heads=4 kv_heads=2 batch=2 q_len=100 k_len=170 head_dim=40 layout=bsnd dtype=bf16",
          "heads=2 q_len=129 k_len=200 head_dim=80 mask=16x128 density=0.5"}) {
        const AttentionCase test_case = parse_attention_case(line);
        for (const AttentionFormat format : kFormats) {
            const AttentionProblem problem = in_format(test_case, format);
            AttentionData data(test_case);
            std::vector<PaddedArray> expected;
            for (const AttentionKernel& kernel : kernels_for(problem))
                expected.push_back(run_attention(kernel, data, problem, rounding_call(data)));
            const ShuffledTokens shuffled(data);
            set_num_threads(3);
            std::size_t next = 0;
            for (const AttentionKernel& kernel : kernels_for(problem))
                EXPECT_EQ(shuffled.undone(run_attention(kernel, data, problem, rounding_call(data))).bytes,
                          expected[next++].bytes)
                    << kernel.name << " " << line;
            set_num_threads(before);
        }
    }
}

// As CANN's DynamicMxQuant computes them, on the bits of the largest magnitude.
int exponent_by_bits(float largest, const Mxfp4Scale& scale) {
    const bool by_bits = scale.dst_type_max == 0 || scale.dst_type_max == 6 || scale.dst_type_max == 7;
    const auto bits = std::bit_cast<std::int32_t>(by_bits ? largest : largest / scale.dst_type_max);
    if (scale.algorithm == 0) return (bits >> 23) - 129;
    if (!by_bits) return (bits >> 23) - 127 + ((bits & 0x7FFFFF) != 0 ? 1 : 0);
    const std::int32_t less = scale.dst_type_max == 7 ? 0x00E00001 : 0x00C00001;
    return ((bits - less) >> 23) - 127;
}

TEST(Mxfp4Scale, ExponentsAreThoseOfTheDevice) {
    for (const Mxfp4Scale& scale : {Mxfp4Scale{}, Mxfp4Scale{2}, Mxfp4Scale{2, 6}, Mxfp4Scale{2, 7},
                                    Mxfp4Scale{2, 7.25F}, Mxfp4Scale{2, 12}}) {
        EXPECT_EQ(mxfp4_exponent_of(0, scale), -127);
        for (const float mantissa :
             {1.0F, 1.25F, 1.4999999F, 1.5F, 1.5000001F, 1.75F, 1.7500001F, 1.8125F, 1.9999999F})
            for (int power = -110; power < 120; power += 23)
                EXPECT_EQ(mxfp4_exponent_of(std::ldexp(mantissa, power), scale),
                          exponent_by_bits(std::ldexp(mantissa, power), scale))
                    << mantissa << " " << power << " " << scale.dst_type_max;
    }
}

// Each block by the function for all channels.
TEST(RoundedAttentionKernels, BlocksOfChannelsAreRoundedOneByOne) {
    constexpr std::int64_t kTokens = 33, kDim = 40, kChannels = 16;
    std::vector<float> values(kTokens * kDim);
    for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = std::sin(static_cast<float>(i)) * static_cast<float>(i % kDim);
    std::vector<float> together = values;
    round_fp8({together.data(), 1, kTokens, kDim}, 8, kChannels);
    for (std::int64_t first = 0; first < kDim; first += kChannels) {
        const std::int64_t count = std::min(kChannels, kDim - first);
        std::vector<float> part;
        for (std::int64_t i = 0; i < kTokens * count; ++i)
            part.push_back(values[static_cast<std::size_t>(i / count * kDim + first + i % count)]);
        round_fp8({part.data(), 1, kTokens, count}, 8);
        for (std::int64_t i = 0; i < kTokens * count; ++i)
            ASSERT_EQ(part[static_cast<std::size_t>(i)],
                      together[static_cast<std::size_t>(i / count * kDim + first + i % count)]);
    }
}

// By plain loops over the channels of a map.
void subtract_means_plainly(const RoundedRows& x) {
    for (std::int64_t i = 0; i < x.maps * x.head_dim; ++i) {
        const std::int64_t map = i / x.head_dim, c = i % x.head_dim;
        double sum = 0.0;
        for (std::int64_t t = 0; t < x.tokens; ++t) sum += static_cast<double>(x.row(map, t)[c]);
        const auto mean = static_cast<float>(sum / static_cast<double>(x.tokens));
        for (std::int64_t t = 0; t < x.tokens; ++t) x.row(map, t)[c] -= mean;
    }
}

void round_channels_plainly(const RoundedRows& x) {
    for (std::int64_t i = 0; i < x.maps * x.head_dim; ++i) {
        const std::int64_t map = i / x.head_dim, c = i % x.head_dim;
        float largest = 0.0F;
        for (std::int64_t t = 0; t < x.tokens; ++t) {
            const float value = std::fabs(x.row(map, t)[c]);
            largest = std::isfinite(value) && !std::isnan(largest) ? std::max(largest, value) : std::nanf("");
        }
        const float scale = largest == 0.0F ? 1.0F : largest / 448.0F;
        for (std::int64_t t = 0; t < x.tokens; ++t)
            x.row(map, t)[c] = to_float(to_float8_e4m3(x.row(map, t)[c] / scale, true)) * scale;
    }
}

using Rounds = void (*)(const RoundedRows&);
const std::pair<Rounds, Rounds> kByChannel[] = {{subtract_means, subtract_means_plainly},
                                                {round_fp8_channels, round_channels_plainly}};

TEST(ChannelRounding, GivesTheBitsOfPlainLoops) {
    for (const std::int64_t head_dim : {1, 15, 16, 17, 40, 256}) {
        for (const auto& [rounds, plainly] : kByChannel) {
            std::vector<float> values;
            for (std::int64_t i = 0; i < 2 * 33 * head_dim; ++i)
                values.push_back(std::sin(static_cast<float>(i)) * std::ldexp(1.0F, static_cast<int>(i % 9)));
            values[static_cast<std::size_t>(head_dim - 1)] = std::numeric_limits<float>::infinity();
            for (std::size_t t = 0; t < 33; ++t) values[t * static_cast<std::size_t>(head_dim)] = 0.0F;
            std::vector<float> wanted = values;
            rounds({values.data(), 2, 33, head_dim});
            plainly({wanted.data(), 2, 33, head_dim});
            for (std::size_t i = 0; i < values.size(); ++i) {
                if (std::isnan(wanted[i])) {
                    EXPECT_TRUE(std::isnan(values[i])) << i;
                } else {
                    EXPECT_EQ(values[i], wanted[i]) << i;
                }
            }
        }
    }
}

/// Memory whose second page asks everybody to stop when it is first touched.
class Tripwire {
  public:
    static constexpr std::size_t kPage = 4096;

    Tripwire() {
        start_ = ::mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        struct sigaction action = {};
        action.sa_sigaction = touched;
        action.sa_flags = SA_SIGINFO;
        ::sigaction(SIGSEGV, &action, &before_);
    }
    ~Tripwire() {
        ::sigaction(SIGSEGV, &before_, nullptr);
        ::munmap(start_, 2 * kPage);
        withdraw_cancellation();
    }
    Tripwire(const Tripwire&) = delete;
    Tripwire& operator=(const Tripwire&) = delete;

    float* data() const { return static_cast<float*>(start_); }
    void arm() const { ::mprotect(second(), kPage, PROT_NONE); }

  private:
    static std::byte* second() { return static_cast<std::byte*>(start_) + kPage; }
    static void touched(int, siginfo_t* signal, void*) {
        const auto* at = static_cast<std::byte*>(signal->si_addr);
        if (at < second() || at >= second() + kPage) ::signal(SIGSEGV, SIG_DFL);
        ::mprotect(second(), kPage, PROT_READ | PROT_WRITE);
        request_cancellation();
    }

    static inline void* start_ = nullptr;
    struct sigaction before_ = {};
};

// A thread that is asked to stop ends its task; so what it leaves undone are other tasks.
TEST(ChannelRounding, OneMapIsManyTasks) {
    const int before = num_threads();
    set_num_threads(1);
    for (const auto& [rounds, plainly] : kByChannel) {
        const Tripwire memory;
        std::int64_t next = 0;
        std::generate_n(memory.data(), 8 * 256, [&] { return static_cast<float>(++next % 100) + 0.3F; });
        const std::vector<float> values(memory.data(), memory.data() + 8 * 256);
        memory.arm();
        EXPECT_THROW(rounds({memory.data(), 1, 8, 256}), Cancelled);
        EXPECT_NE(memory.data()[256], values[256]);
        EXPECT_EQ(memory.data()[255], values[255]);
    }
    set_num_threads(before);
}

}  // namespace
}  // namespace aerogel::testing
