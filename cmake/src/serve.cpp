// The runner: engines opened by name, timed in blocks as they are asked for, their outputs written to files.
//
// It reads and writes in the folder where it was started, and no path that it is given leaves that.
#include "serve.hpp"

#include "energy.hpp"
#include "failure.hpp"
#include "json.hpp"
#include "machine.hpp"
#include "racer.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <thread>

// Calls of an engine in a function of their own, inside which callgrind counts (edgekd/devices/counting.py).
extern "C" void edgekd_bench_calls(Racer* racer, std::size_t calls);

namespace edgekd::bench {
namespace {

using core::fail;
using core::Failure;
using core::Json;
using Clock = std::chrono::steady_clock;

constexpr int kProtocol = 1;

std::int64_t nanoseconds(Clock::duration taken) { return std::chrono::duration_cast<std::chrono::nanoseconds>(taken).count(); }

void say(const std::string& line) {
    std::fwrite((line + '\n').data(), 1, line.size() + 1, stdout);
    std::fflush(stdout);  // a reader that is gone ends this program: SIGPIPE
}

template <class List, class Told>
std::string list_of(const List& list, Told&& told) {
    std::string found = "[";
    for (const auto& one : list) found += (found.size() > 1 ? ", " : "") + told(one);
    return found + ']';
}

// A path in this folder.
std::string inside(const std::string& path) {
    const std::filesystem::path given(path);
    if (path.empty() || given.is_absolute() || std::find(given.begin(), given.end(), "..") != given.end())
        fail(EDGEKD_INVALID_ARGUMENT, quoted(path) + " is no path of a file inside its folder");
    return path;
}

std::size_t count_of(const Json& value) {
    const long long found = value.integer();
    if (found < 0 || found > 1000000000) fail(EDGEKD_INVALID_ARGUMENT, std::to_string(found) + " is no count");
    return static_cast<std::size_t>(found);
}

void must(const Status& status) {
    if (!status) fail(status.code(), status.message());
}

// Seconds of the clock's smallest step that can be seen by reading it over and over.
double step() {
    std::int64_t smallest = INT64_MAX;
    Clock::time_point last = Clock::now();
    for (int seen = 0; seen < 20;) {
        const Clock::time_point now = Clock::now();
        if (now > last) {
            smallest = std::min(smallest, nanoseconds(now - last));
            ++seen;
        }
        last = now;
    }
    return static_cast<double>(smallest) / 1e9;
}

std::size_t bytes_of(const Racer& racer) {
    std::size_t bytes = 0;
    for (const auto& tensor : racer.inputs) bytes += tensor.count * edgekd_dtype_bytes(tensor.dtype);
    return bytes;
}

// A file of samples: of each, every input's elements, one behind the other.
std::vector<char> samples_of(const std::string& path, const Racer& racer) {
    std::ifstream file(inside(path), std::ios::binary);
    std::vector<char> held((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const std::size_t sample = bytes_of(racer);
    if (sample == 0 || held.empty() || held.size() % sample != 0)
        fail(EDGEKD_INVALID_ARGUMENT, path + ": " + std::to_string(held.size()) + " bytes are no whole number of samples of " +
                                          std::to_string(sample) + " bytes");
    return held;
}

// One sample into the engine's buffers, which come first for the inputs, in the order of the ports.
void feed(Racer& racer, const char* sample) {
    for (std::size_t i = 0; i < racer.inputs.size(); ++i) {
        const std::size_t size = racer.inputs[i].count * edgekd_dtype_bytes(racer.inputs[i].dtype);
        std::memcpy(racer.buffers[i].data(), sample, size);
        sample += size;
    }
}

class Runner {
  public:
    // The answer to a request, after the lines that it says before.
    std::string answer(const Json& request) {
        const std::string& wanted = request.at("do").text();
        if (wanted == "hello") return hello();
        if (wanted == "busy") return busy(request);
        if (wanted == "pin") return pinned(request);
        if (wanted == "open") return open(request);
        if (wanted == "time") return time(request);
        if (wanted == "run") return run(request);
        if (wanted == "count") return count(request);
        if (wanted == "profile") return "{\"operators\": null}";  // sessions have no profiler
        fail(EDGEKD_INVALID_ARGUMENT, "no request " + quoted(wanted) + "; known: hello, busy, pin, open, time, run, count, profile");
    }

  private:
    std::string hello() const {
        const std::string backends = EDGEKD_BACKENDS;
        std::string named;
        for (std::size_t from = 0; from <= backends.size();) {
            const std::size_t end = std::min(backends.find(',', from), backends.size());
            named += (named.empty() ? "" : ", ") + quoted(backends.substr(from, end - from));
            from = end + 1;
        }
        return "{\"protocol\": " + std::to_string(kProtocol) + ", \"runner\": \"edgekd-bench " EDGEKD_VERSION "\", \"backends\": [" +
               named + "], \"machine\": {\"triple\": " + quoted(triple()) + ", \"cores\": " + std::to_string(cores()) +
               ", \"isa\": " + list_of(features(), quoted) + "}, \"energy\": {\"of\": " + quoted(meter_.of()) + ", \"why\": " + quoted(meter_.why()) + "}}";
    }

    std::string busy(const Json& request) const {
        const std::vector<Ticks> before = ticks();
        std::this_thread::sleep_for(std::chrono::duration<double>(std::clamp(request.at("seconds").number(), 0.0, 10.0)));
        const std::vector<Ticks> after = ticks();
        std::vector<double> shares;
        for (std::size_t i = 0; i < std::min(before.size(), after.size()); ++i) {
            const double whole = after[i].whole - before[i].whole;
            shares.push_back(whole > 0 ? std::clamp(1 - (after[i].idle - before[i].idle) / whole, 0.0, 1.0) : 0.0);
        }
        const double all = shares.empty() ? 0 : shares.front();
        if (!shares.empty()) shares.erase(shares.begin());
        return "{\"share\": " + number(all) + ", \"per_cpu\": " + list_of(shares, number) + '}';
    }

    std::string pinned(const Json& request) {
        std::vector<double> used;
        for (const Json& one : request.at("used").list()) used.push_back(one.number());
        cpus_ = pin(count_of(request.at("threads")), used);
        return "{\"cores\": " + list_of(cpus_, [](int one) { return std::to_string(one); }) + '}';
    }

    // Open a bundle and compute its first result, and say what that cost.
    std::string open(const Json& request) {
        auto racer = std::make_unique<Racer>();
        racer->path = inside(request.at("bundle").text());
        const long long base = peak_memory();
        const Clock::time_point started = Clock::now();
        must(racer->student.open(racer->path.c_str()));
        racer->provide();
        feed(*racer, samples_of(request.at("inputs").text(), *racer).data());
        must(racer->call());
        const double seconds = static_cast<double>(nanoseconds(Clock::now() - started)) / 1e9;
        const std::string about = quoted(racer->student.runtime_version());
        racers_[request.at("name").text()] = std::move(racer);
        return "{\"seconds\": " + number(seconds) + ", \"base\": " + std::to_string(base) + ", \"peak\": " +
               std::to_string(peak_memory()) + ", \"step\": " + number(step()) + ", \"runtime\": " + about + '}';
    }

    // Time each block: [engine, samples, calls a sample], after `lead` calls that are not timed.
    std::string time(const Json& request) {
        const std::size_t lead = count_of(request.at("lead"));
        const std::vector<Ticks> began = ticks();
        const double own = own_ticks();
        std::string before = conditions(cpus_);
        std::size_t index = 0;
        for (const Json& block : request.at("blocks").list()) {
            if (block.list().size() != 3) fail(EDGEKD_INVALID_ARGUMENT, "a block is [engine, samples, calls]");
            Racer& racer = named(block.list()[0].text());
            const std::size_t samples = count_of(block.list()[1]);
            const std::size_t repeat = count_of(block.list()[2]);
            for (std::size_t i = 0; i < lead; ++i) must(racer.call());
            taken_.assign(samples, 0);
            meter_.start();
            for (std::size_t sample = 0; sample < samples; ++sample) {
                const Clock::time_point started = Clock::now();
                for (std::size_t i = 0; i < repeat; ++i)
                    if (const Status ran = racer.call(); !ran) must(ran);
                taken_[sample] = nanoseconds(Clock::now() - started);
            }
            const double joules = meter_.stop();
            const std::string after = conditions(cpus_);
            say("{\"block\": {\"index\": " + std::to_string(index) + ", \"ns\": " +
                list_of(taken_, [](std::int64_t one) { return std::to_string(one); }) + ", \"conditions\": [" + before + ", " + after + "], \"joules\": " +
                number(joules) + "}}");
            before = after;
            ++index;
        }
        return "{\"others\": " + number(others(began, own)) + '}';
    }

    // The share of the machine that other processes used since; 0 where too little time passed for the counters to tell.
    static double others(const std::vector<Ticks>& began, double own) {
        const std::vector<Ticks> ended = ticks();
        if (began.empty() || ended.empty()) return 0;
        const double whole = ended[0].whole - began[0].whole;
        const double idle = ended[0].idle - began[0].idle;
        return whole > 5 ? std::clamp((whole - idle - (own_ticks() - own)) / whole, 0.0, 1.0) : 0;
    }

    // Outputs for each sample of a file, into another.
    std::string run(const Json& request) {
        Racer& racer = named(request.at("name").text());
        const std::vector<char> samples = samples_of(request.at("inputs").text(), racer);
        const std::size_t size = bytes_of(racer);
        const std::string path = inside(request.at("outputs").text());
        std::ofstream file(path, std::ios::binary | std::ios::trunc);
        for (std::size_t at = 0; at < samples.size(); at += size) {
            feed(racer, samples.data() + at);
            must(racer.call());
            for (const auto& tensor : racer.outputs)
                file.write(static_cast<const char*>(tensor.data),
                           static_cast<std::streamsize>(tensor.count * edgekd_dtype_bytes(tensor.dtype)));
        }
        if (!file.flush()) fail(EDGEKD_INTERNAL, path + " cannot be written: is the disk full?");
        return "{\"samples\": " + std::to_string(samples.size() / size) + '}';
    }

    // Instructions of one of so many calls, after as many that are not counted: by the processor, and between two marks for
    // whoever counts from outside.
    std::string count(const Json& request) {
        Racer& racer = named(request.at("name").text());
        const std::size_t calls = std::max<std::size_t>(count_of(request.at("calls")), 1);
        for (std::size_t i = 0; i < calls; ++i) must(racer.call());
        Instructions counted;
        mark(1);
        edgekd_bench_calls(&racer, calls);
        mark(2);
        const double found = counted.stop();
        return "{\"instructions\": " + (found > 0 ? number(found / static_cast<double>(calls)) : "null") + ", \"why\": " +
               quoted(counted.why()) + '}';
    }

    Racer& named(const std::string& name) {
        const auto found = racers_.find(name);
        if (found == racers_.end()) fail(EDGEKD_INVALID_ARGUMENT, "no engine " + quoted(name) + " is open");
        return *found->second;
    }

    std::map<std::string, std::unique_ptr<Racer>> racers_;
    std::vector<int> cpus_;
    std::vector<std::int64_t> taken_;
    Meter meter_;
};

// What a request cannot be done for: a mistake in what was asked or sent, or something that failed here.
std::string refused(const Failure& failure) {
    const bool failed = failure.code == EDGEKD_INTERNAL || failure.code == EDGEKD_RUNTIME_FAILED || failure.code == EDGEKD_OUT_OF_MEMORY;
    return "{\"error\": {\"kind\": \"" + std::string(failed ? "failed" : "user") + "\", \"message\": " + quoted(failure.message) +
           ", \"hint\": \"\"}}";
}

}  // namespace

}  // namespace edgekd::bench

__attribute__((noinline)) void edgekd_bench_calls(Racer* racer, std::size_t calls) {
    for (std::size_t i = 0; i < calls; ++i) edgekd::bench::must(racer->call());
}

namespace edgekd::bench {

int serve() {
    Runner runner;
    for (std::string line; std::getline(std::cin, line);) {
        try {
            say("{\"done\": " + runner.answer(Json::parse(line, "the request")) + '}');
        } catch (const Failure& failure) {
            say(refused(failure));
        } catch (const std::exception& error) {
            say(refused({EDGEKD_INTERNAL, error.what()}));
        }
    }
    return 0;
}

}  // namespace edgekd::bench
