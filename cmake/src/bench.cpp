// edgekd-bench: bundles on the machine where they will run. Latency as JSON lines on stdout, talk on stderr.
#include "energy.hpp"
#include "racer.hpp"
#include "serve.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace {

constexpr const char* kUsage =
    "usage: edgekd-bench [--verify] [--rounds N] [--calls N] [--warmup N] [--threads N] [--slowdown X] BUNDLE...\n"
    "       edgekd-bench --serve\n"
    "\n"
    "  Times each bundle's engine, interleaved: N rounds (default 10) of N calls (default 100) after N calls (default 50)\n"
    "  that are not timed. One line of JSON a bundle and round, {\"bundle\", \"round\", \"seconds\": [...]}, and one at the end,\n"
    "  {\"bundle\", \"backend\", \"runtime\", \"calls\", \"median\", \"p90\", \"joules\", \"metered\"}. Seconds; joules of a call,\n"
    "  null where the machine does not tell, with all else that what is metered draws.\n"
    "\n"
    "  --verify      instead: the golden inputs through the engine, and one line of JSON a bundle with what was found\n"
    "  --slowdown X  with --verify: also fail where the median is above X times the promised one\n"
    "  --serve       instead: answer requests, lines of JSON on stdin, in the folder where they lie: docs/devices.md of edgekd\n"
    "  --threads N   threads of one call; default: as many as the engine was compiled for\n"
    "\n"
    "  Exit 0: well; 1: an engine does not do what its bundle promises; 2: a bundle, a runtime or an argument is wrong.\n";

struct Wishes {
    bool verify = false;
    std::size_t rounds = 10;
    std::size_t calls = 100;
    std::size_t warmup = 50;
    double slowdown = 0;
    edgekd::Options options{};
    std::vector<std::string> bundles;
};

int complain(const std::string& what) {
    std::fprintf(stderr, "error: %s\n", what.c_str());
    return 2;
}

// Time `count` calls and print them as one line.
edgekd::Status time_round(Racer& racer, edgekd::bench::Meter& meter, std::size_t round, std::size_t count) {
    using Clock = std::chrono::steady_clock;
    const std::size_t before = racer.seconds.size();
    meter.start();
    for (std::size_t i = 0; i < count; ++i) {
        const Clock::time_point started = Clock::now();
        edgekd::Status ran = racer.call();
        const Clock::time_point ended = Clock::now();
        if (!ran) return ran;
        racer.seconds.push_back(std::chrono::duration<double>(ended - started).count());
    }
    racer.joules += meter.stop();
    std::printf("{\"bundle\": %s, \"round\": %zu, \"seconds\": [", quoted(racer.path).c_str(), round);
    for (std::size_t i = before; i < racer.seconds.size(); ++i) std::printf("%s%.9g", i == before ? "" : ", ", racer.seconds[i]);
    std::printf("]}\n");
    return {edgekd_status{EDGEKD_OK, {}}};
}

// The value below which a share of the sorted samples lies: nearest rank.
double quantile(const std::vector<double>& sorted, double share) {
    const auto rank = static_cast<std::size_t>(share * static_cast<double>(sorted.size()));
    return sorted[std::min(rank, sorted.size() - 1)];
}

int race(const Wishes& wishes, std::vector<std::unique_ptr<Racer>>& racers) {
    edgekd::bench::Meter meter;
    for (auto& racer : racers) {
        racer->provide();
        for (std::size_t i = 0; i < wishes.warmup; ++i)
            if (const auto ran = racer->call(); !ran) return complain(racer->path + ": " + ran.message());
    }
    for (std::size_t round = 0; round < wishes.rounds; ++round)
        for (std::size_t turn = 0; turn < racers.size(); ++turn) {
            Racer& racer = *racers[(round + turn) % racers.size()];  // another one begins each round
            if (const auto ran = time_round(racer, meter, round, wishes.calls); !ran) return complain(racer.path + ": " + ran.message());
        }
    for (auto& racer : racers) {
        std::sort(racer->seconds.begin(), racer->seconds.end());
        std::printf("{\"bundle\": %s, \"backend\": %s, \"runtime\": %s, \"calls\": %zu, \"median\": %.9g, \"p90\": %.9g, "
                    "\"joules\": %s, \"metered\": %s}\n",
                    quoted(racer->path).c_str(), quoted(racer->student.backend()).c_str(),
                    quoted(racer->student.runtime_version()).c_str(), racer->seconds.size(), quantile(racer->seconds, 0.5),
                    quantile(racer->seconds, 0.9), number(racer->joules / static_cast<double>(racer->seconds.size())).c_str(),
                    quoted(meter.of()).c_str());
    }
    return 0;
}

int verify(const Wishes& wishes, std::vector<std::unique_ptr<Racer>>& racers) {
    int code = 0;
    for (auto& racer : racers) {
        edgekd::Report report{};
        const edgekd::Status tested = racer->student.self_test(&report, wishes.slowdown);
        if (!tested && tested.code() != EDGEKD_SELF_TEST_FAILED) return complain(racer->path + ": " + tested.message());
        if (!tested) code = 1;
        std::printf("{\"bundle\": %s, \"backend\": %s, \"runtime\": %s, \"ok\": %s, \"reason\": %s, \"samples\": %zu, \"top1\": %.9g, "
                    "\"difference\": %s, \"tolerance\": {\"top1\": %.9g, \"absolute\": %.9g}, \"calls\": %zu, \"median\": %.9g, "
                    "\"promised\": %.9g}\n",
                    quoted(racer->path).c_str(), quoted(racer->student.backend()).c_str(),
                    quoted(racer->student.runtime_version()).c_str(), tested ? "true" : "false", quoted(tested.message()).c_str(),
                    report.samples, report.top1, number(report.difference).c_str(),
                    report.tolerance_top1, report.tolerance_absolute, report.calls, report.median, report.promised);
    }
    return code;
}

// Whether `text` is a whole number of at least `least`.
bool whole(const char* text, std::size_t least, std::size_t& value) {
    char* end = nullptr;
    const unsigned long long found = std::strtoull(text, &end, 10);
    value = static_cast<std::size_t>(found);
    return *text >= '0' && *text <= '9' && *end == '\0' && value >= least && value <= 1000000000;
}

bool parse(int count, char** words, Wishes& wishes) {
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        const char* value = i + 1 < count ? words[i + 1] : "";
        std::size_t threads = 0;
        bool good = true;
        if (word == "--verify") {
            wishes.verify = true;
            continue;
        }
        if (word.compare(0, 2, "--") != 0) {
            wishes.bundles.push_back(word);
            continue;
        }
        if (word == "--rounds") good = whole(value, 1, wishes.rounds);
        else if (word == "--calls") good = whole(value, 1, wishes.calls);
        else if (word == "--warmup") good = whole(value, 0, wishes.warmup);
        else if (word == "--threads") good = whole(value, 1, threads) && threads <= 1024;
        else if (word == "--slowdown") good = (wishes.slowdown = std::strtod(value, nullptr)) > 0;
        else good = false;
        if (!good) return false;
        if (word == "--threads") wishes.options.threads = static_cast<int>(threads);
        ++i;
    }
    return !wishes.bundles.empty();
}

}  // namespace

int main(int count, char** words) {
    if (count == 2 && std::strcmp(words[1], "--help") == 0) return std::printf("%s", kUsage) > 0 ? 0 : 1;
    if (count == 2 && std::strcmp(words[1], "--serve") == 0) return edgekd::bench::serve();
    Wishes wishes;
    if (!parse(count, words, wishes)) {
        std::fprintf(stderr, "%s", kUsage);
        return 2;
    }
    std::vector<std::unique_ptr<Racer>> racers;
    for (const std::string& path : wishes.bundles) {
        racers.push_back(std::make_unique<Racer>());
        racers.back()->path = path;
        if (const auto opened = racers.back()->student.open(path.c_str(), wishes.options); !opened)
            return complain(opened.message());
    }
    return wishes.verify ? verify(wishes, racers) : race(wishes, racers);
}
