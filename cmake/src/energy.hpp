// Joules by the machine's own counters, as edgekd/latency/energy.py reads them: RAPL, or else a board's power monitors.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace edgekd::bench {

class Meter {
  public:
    // What can be read there, each file tried once. RAPL counts microjoules of a processor package and of its memory, with all
    // that runs there; an INA monitor tells the power of a supply line, whose mean of before and after is taken.
    explicit Meter(const std::string& system = "/sys");

    // What is metered, "package-0, dram", or why() nothing is; the other is empty.
    std::string of() const;
    const std::string& why() const noexcept { return why_; }

    void start();
    // Joules since start(); NaN where they could not be read.
    double stop() const;

  private:
    struct Counter {
        std::string name, file;
        double most;  // microjoules after which it begins again at 0; 0: it never does
    };
    struct Line {
        std::string name;
        std::vector<std::string> files;  // whose product, times `scale`, is its power in watts
        double scale;
    };

    void find_zones(const std::string& powercap);
    void find_lines(const std::string& system);
    double watts() const;

    std::vector<Counter> counters_;
    std::vector<Line> lines_;
    std::string why_;
    std::vector<double> before_;
    double watts_ = 0;
    std::chrono::steady_clock::time_point started_;
};

}  // namespace edgekd::bench
