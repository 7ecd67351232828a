// Opens the driver's library, finds its entry points and asks the GPUs what they are.
#include "core/cuda_driver.h"

#include <dlfcn.h>

#include <array>
#include <deque>
#include <mutex>
#include <optional>

#include "aerogel/error.h"
#include "base/environment.h"
#include "base/fork.h"
#include "core/text.h"

namespace aerogel::cuda {
namespace {

constexpr const char* kLibrary = "libcuda.so.1";
constexpr int kLeastSm = 80;
constexpr int kLeastVersion = 13000;  // of the nvcc whose machine code the driver is given (cmake/cuda.cmake)
constexpr std::array<std::string_view, 6> kHeldDown = {"sm_80", "sm_86",  "sm_89",
                                                       "sm_90", "sm_100", "sm_120"};

[[noreturn]] void no_driver(const std::string& why) {
    throw DeviceError("[device] no CUDA driver: " + why);
}

class Library {
  public:
    explicit Library(const std::string& path)
        : path_(path), handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
        if (handle_ == nullptr) no_driver(dlerror());
    }

    template <typename Entry>
    void find(Entry& entry, const char* symbol) const {
        find_if_there(entry, symbol);
        if (entry == nullptr) no_driver(path_ + " has no " + symbol);
    }
    template <typename Entry>
    void find_if_there(Entry& entry, const char* symbol) const {
        entry = reinterpret_cast<Entry>(dlsym(handle_, symbol));
    }

  private:
    std::string path_;
    void* handle_;  // for as long as the process lives: the driver has threads of its own
};

void find_devices(const Library& library, Driver& driver) {
    library.find(driver.init, "cuInit");
    library.find(driver.version, "cuDriverGetVersion");
    library.find(driver.error_name, "cuGetErrorName");
    library.find(driver.error_string, "cuGetErrorString");
    library.find(driver.device_count, "cuDeviceGetCount");
    library.find(driver.device_get, "cuDeviceGet");
    library.find(driver.device_name, "cuDeviceGetName");
    library.find(driver.device_attribute, "cuDeviceGetAttribute");
    library.find(driver.retain_primary_context, "cuDevicePrimaryCtxRetain");
    library.find(driver.current_context, "cuCtxGetCurrent");
    library.find(driver.push_context, "cuCtxPushCurrent_v2");
    library.find(driver.pop_context, "cuCtxPopCurrent_v2");
    library.find(driver.synchronize, "cuCtxSynchronize");
}

void find_memory(const Library& library, Driver& driver) {
    library.find(driver.memory_info, "cuMemGetInfo_v2");
    library.find(driver.allocate, "cuMemAlloc_v2");
    library.find(driver.free, "cuMemFree_v2");
    library.find(driver.from_host, "cuMemcpyHtoDAsync_v2");
    library.find(driver.to_host, "cuMemcpyDtoHAsync_v2");
    library.find(driver.copy, "cuMemcpyDtoDAsync_v2");
    library.find(driver.fill_bytes, "cuMemsetD8Async");
    library.find(driver.synchronize_stream, "cuStreamSynchronize");
    library.find(driver.create_event, "cuEventCreate");
    library.find(driver.record_event, "cuEventRecord");
    library.find(driver.query_event, "cuEventQuery");
    library.find(driver.stream_capture, "cuStreamIsCapturing");
    library.find(driver.exchange_capture_mode, "cuThreadExchangeStreamCaptureMode");
    library.find(driver.destroy_event, "cuEventDestroy_v2");
}

void find_kernels(const Library& library, Driver& driver) {
    library.find(driver.load_module, "cuModuleLoadData");
    library.find(driver.find_function, "cuModuleGetFunction");
    library.find(driver.function_attribute, "cuFuncGetAttribute");
    library.find(driver.set_function_attribute, "cuFuncSetAttribute");
    library.find(driver.launch, "cuLaunchKernel");
    library.find_if_there(driver.encode_tiled, "cuTensorMapEncodeTiled");
}

std::string text_of(Result (*ask)(Result, const char**), Result result) {
    const char* text = nullptr;
    if (ask(result, &text) != kSuccess || text == nullptr) return std::to_string(result);
    return text;
}

std::string describe_by(const Driver& driver, Result result) {
    return text_of(driver.error_name, result) + " (" + text_of(driver.error_string, result) + ")";
}

std::string version_text(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

void check_version(const Driver& driver, const std::string& path) {
    int version = 0;
    if (const Result result = driver.version(&version); result != kSuccess)
        no_driver("cuDriverGetVersion: " + describe_by(driver, result));
    if (version < kLeastVersion) {
        no_driver(path + " is CUDA " + version_text(version) + ", needed is " + version_text(kLeastVersion) +
                  " or later");
    }
}

Driver open_driver() {
    const std::string path = environment("AEROGEL_CUDA_DRIVER").value_or(kLibrary);
    const Library library(path);
    Driver driver{};
    find_devices(library, driver);
    find_memory(library, driver);
    find_kernels(library, driver);
    check_version(driver, path);
    if (const Result result = driver.init(0); result != kSuccess)
        no_driver("cuInit: " + describe_by(driver, result));
    return driver;
}

struct State {
    std::mutex guard;
    std::optional<Driver> driver;
    std::deque<std::optional<Properties>> devices;  // a reference into it stays good
};
PerProcess<State> state;

int allowed_sm(int sm, const std::string& name) {
    const auto wanted = environment_choice("AEROGEL_GPU", {kHeldDown.begin(), kHeldDown.end()});
    if (!wanted) return sm;
    const int held = std::stoi(wanted->substr(3));
    if (held > sm) {
        throw InvalidArgument("[environment] AEROGEL_GPU=" + *wanted + " asks for more than this GPU is (" +
                              name + ", sm_" + std::to_string(sm) + ")");
    }
    return held;
}

Properties ask_properties(const Driver& driver, int index) {
    int count = 0, device = 0;
    check(driver.device_count(&count), "cuDeviceGetCount");
    if (index < 0 || index >= count) {
        throw DeviceError("[device] there is no cuda:" + std::to_string(index) + ", the machine has " +
                          counted(count, "GPU"));
    }
    check(driver.device_get(&device, index), "cuDeviceGet");
    const auto ask = [&](DeviceAttribute attribute) {
        int value = 0;
        check(driver.device_attribute(&value, attribute, device), "cuDeviceGetAttribute");
        return value;
    };
    Properties found;
    std::array<char, 256> name{};
    check(driver.device_name(name.data(), static_cast<int>(name.size()) - 1, device), "cuDeviceGetName");
    found.name = name.data();
    found.sm = 10 * ask(DeviceAttribute::major) + ask(DeviceAttribute::minor);
    if (found.sm < kLeastSm) {
        throw DeviceError("[device] cuda:" + std::to_string(index) + " (" + found.name + ") is sm_" +
                          std::to_string(found.sm) + ", needed is sm_" + std::to_string(kLeastSm) +
                          " (Ampere) or later");
    }
    found.allowed_sm = allowed_sm(found.sm, found.name);
    found.multiprocessors = ask(DeviceAttribute::multiprocessors);
    found.shared_per_block = ask(DeviceAttribute::shared_per_block_at_most);
    found.shared_per_multiprocessor = ask(DeviceAttribute::shared_per_multiprocessor);
    check(driver.retain_primary_context(&found.context, device), "cuDevicePrimaryCtxRetain");
    return found;
}

}  // namespace

const Driver& driver() {
    State& mine = state.get();
    const std::lock_guard lock(mine.guard);
    if (!mine.driver) mine.driver = open_driver();
    return *mine.driver;
}

std::string describe(Result result) {
    return describe_by(driver(), result);
}

void check(Result result, std::string_view what) {
    if (result != kSuccess)
        throw DeviceError("[device] " + std::string(what) + " failed: " + describe(result));
}

const Properties& properties(int index) {
    const Driver& opened = driver();
    State& mine = state.get();
    {
        const std::lock_guard lock(mine.guard);
        const auto at = static_cast<std::size_t>(index);
        if (index >= 0 && at < mine.devices.size() && mine.devices[at]) return *mine.devices[at];
    }
    Properties found = ask_properties(opened, index);  // without the lock: check() asks the driver
    const std::lock_guard lock(mine.guard);
    const auto at = static_cast<std::size_t>(index);
    while (mine.devices.size() <= at) mine.devices.emplace_back();
    if (!mine.devices[at]) mine.devices[at] = std::move(found);
    return *mine.devices[at];
}

int device_count() noexcept {
    try {
        int count = 0;
        return driver().device_count(&count) == kSuccess ? count : 0;
    } catch (const Error&) {
        return 0;
    }
}

CurrentDevice::CurrentDevice(int index) {
    const DriverContext wanted = properties(index).context;
    DriverContext current = nullptr;
    check(driver().current_context(&current), "cuCtxGetCurrent");
    if (current == wanted) return;
    check(driver().push_context(wanted), "cuCtxPushCurrent");
    pushed_ = true;
}

CurrentDevice::~CurrentDevice() {
    DriverContext left = nullptr;
    if (pushed_) driver().pop_context(&left);
}

int current_device() noexcept {
    State& mine = state.get();
    DriverContext current = nullptr;
    const std::lock_guard lock(mine.guard);
    if (!mine.driver || mine.driver->current_context(&current) != kSuccess || current == nullptr) return -1;
    for (std::size_t i = 0; i < mine.devices.size(); ++i)
        if (mine.devices[i] && mine.devices[i]->context == current) return static_cast<int>(i);
    return -1;
}

}  // namespace aerogel::cuda
