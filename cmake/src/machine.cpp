// What /proc and /sys say. A file that is not there, or a sensor that is asleep, is a value that is not told.
#include "machine.hpp"

#include "racer.hpp"

#include <linux/perf_event.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/times.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>
#include <tuple>

namespace edgekd::bench {
namespace {

constexpr const char* kCpus = "/sys/devices/system/cpu/cpu";

// The first line of a file; empty if there is none.
std::string line_of(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

// The number that a file holds; NaN if it holds none.
double number_of(const std::string& path) {
    std::istringstream text(line_of(path));
    double value = 0;
    return text >> value ? value : std::nan("");
}

std::string cpu(int index, const char* file) { return kCpus + std::to_string(index) + file; }

// How fast a core can be, in units that compare on one machine; 0 where it is not told.
double capacity(int index) {
    for (const char* file : {"/cpu_capacity", "/cpufreq/cpuinfo_max_freq"})
        if (const double found = number_of(cpu(index, file)); found > 0) return found;
    return 0;
}

}  // namespace

std::string triple() {
#if defined(__aarch64__)
    const std::string processor = "aarch64";
#elif defined(__x86_64__)
    const std::string processor = "x86_64";
#elif defined(__arm__)
    const std::string processor = "armv7l";
#elif defined(__riscv)
    const std::string processor = "riscv64";
#else
    const std::string processor = "unknown";
#endif
#if defined(__ANDROID__)
    return processor + "-android";
#else
    return processor + "-linux";
#endif
}

std::vector<std::string> features() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.compare(0, 5, "flags") != 0 && line.compare(0, 8, "Features") != 0) continue;
        std::istringstream words(line.substr(std::min(line.find(':'), line.size() - 1) + 1));
        std::vector<std::string> found;
        for (std::string word; words >> word;) found.push_back(word);
        return found;
    }
    return {};
}

std::size_t cores() { return std::max(1u, std::thread::hardware_concurrency()); }

std::vector<Ticks> ticks() {
    std::ifstream file("/proc/stat");
    std::vector<Ticks> found;
    for (std::string line; std::getline(file, line) && line.compare(0, 3, "cpu") == 0;) {
        std::istringstream words(line);
        std::string name;
        words >> name;
        Ticks one;
        double value = 0;
        for (int field = 0; field < 8 && words >> value; ++field) {  // those behind are counted in the first two
            one.whole += value;
            if (field == 3 || field == 4) one.idle += value;  // idle, and waiting for a disk
        }
        found.push_back(one);
    }
    return found;
}

double own_ticks() {
    tms used{};
    times(&used);
    return static_cast<double>(used.tms_utime + used.tms_stime);
}

std::vector<int> pin(std::size_t threads, const std::vector<double>& used) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) return {};
    std::vector<std::tuple<double, bool, double, int>> allowed;
    for (int index = 0; index < CPU_SETSIZE; ++index) {
        if (!CPU_ISSET(index, &set)) continue;
        const double first = number_of(cpu(index, "/topology/thread_siblings_list"));  // of "0,4" or "0-1"
        const bool twin = first >= 0 && first < CPU_SETSIZE && static_cast<int>(first) != index && CPU_ISSET(static_cast<int>(first), &set);
        const double busy = static_cast<std::size_t>(index) < used.size() ? used[static_cast<std::size_t>(index)] : 0;
        allowed.emplace_back(-capacity(index), twin, busy, -index);
    }
    std::sort(allowed.begin(), allowed.end());
    allowed.resize(std::min(allowed.size(), std::max<std::size_t>(threads, 1)));
    std::vector<int> chosen;
    CPU_ZERO(&set);
    for (const auto& one : allowed) {
        chosen.push_back(-std::get<3>(one));
        CPU_SET(chosen.back(), &set);
    }
    if (sched_setaffinity(0, sizeof set, &set) != 0) return {};
    std::sort(chosen.begin(), chosen.end());
    return chosen;
}

std::string conditions(const std::vector<int>& cpus) {
    double hottest = std::nan("");
    for (int zone = 0; zone < 64; ++zone) {
        const double found = number_of("/sys/class/thermal/thermal_zone" + std::to_string(zone) + "/temp");
        if (!std::isnan(found)) hottest = std::isnan(hottest) ? found : std::max(hottest, found);
    }
    std::string mhz;
    for (const int index : cpus)
        if (const double found = number_of(cpu(index, "/cpufreq/scaling_cur_freq")); !std::isnan(found))
            mhz += (mhz.empty() ? "" : ", ") + std::to_string(std::lround(found / 1000));
    const std::string governor = line_of(cpu(cpus.empty() ? 0 : cpus.front(), "/cpufreq/scaling_governor"));
    return "{\"celsius\": " + (std::isnan(hottest) ? std::string("null") : number(hottest / 1000)) + ", \"mhz\": [" + mhz +
           "], \"governor\": " + quoted(governor) + '}';
}

long long peak_memory() {
    std::ifstream file("/proc/self/status");
    for (std::string line; std::getline(file, line);)
        if (line.compare(0, 6, "VmHWM:") == 0) return std::stoll(line.substr(6)) * 1024;
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    return used.ru_maxrss * 1024LL;
}

Instructions::Instructions() {
    std::error_code error;
    for (std::filesystem::directory_iterator at("/proc/self/task", error), end; !error && at != end; at.increment(error)) {
        perf_event_attr wanted{};
        wanted.size = sizeof wanted;
        wanted.type = PERF_TYPE_HARDWARE;
        wanted.config = PERF_COUNT_HW_INSTRUCTIONS;
        wanted.exclude_kernel = 1;
        wanted.exclude_hv = 1;
        wanted.inherit = 1;  // threads that are started meanwhile
        wanted.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING;
        const long thread = std::strtol(at->path().filename().c_str(), nullptr, 10);
        const long made = syscall(SYS_perf_event_open, &wanted, static_cast<pid_t>(thread), -1, -1, 0UL);
        if (made < 0) {
            why_ = std::string("the processor's counters cannot be read: ") + std::strerror(errno);
            break;
        }
        counters_.push_back(static_cast<int>(made));
    }
    if (counters_.empty() && why_.empty()) why_ = "the system does not name its threads";
}

Instructions::~Instructions() {
    for (const int counter : counters_) close(counter);
}

double Instructions::stop() {
    double found = 0;
    for (const int counter : counters_) {
        struct {
            std::uint64_t value, enabled, running;
        } told{};
        ioctl(counter, PERF_EVENT_IOC_DISABLE, 0);
        if (read(counter, &told, sizeof told) != static_cast<ssize_t>(sizeof told) || (told.enabled > 0 && told.running == 0))
            why_ = "the processor's counters were never this process's";
        else if (told.running > 0)
            found += static_cast<double>(told.value) * static_cast<double>(told.enabled) / static_cast<double>(told.running);
    }
    return why_.empty() && found > 0 ? found : -1;
}

void mark(int which) { syscall(SYS_prctl, 0x65646b64UL, static_cast<unsigned long>(which), 0UL, 0UL, 0UL); }

}  // namespace edgekd::bench
