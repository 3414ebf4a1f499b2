// energy FOLDER: what edgekd-bench's meter reads there instead of in /sys; "start" and "stop" on stdin.
#include "energy.hpp"

#include <cstdio>
#include <iostream>
#include <string>

int main(int count, char** words) {
    if (count != 2) return 2;
    edgekd::bench::Meter meter(words[1]);
    std::printf("%s\n%s\n", meter.of().c_str(), meter.why().c_str());
    std::fflush(stdout);
    for (std::string line; std::getline(std::cin, line);) {
        if (line == "start") meter.start();
        std::printf("%.9g\n", line == "stop" ? meter.stop() : 0.0);
        std::fflush(stdout);
    }
    return 0;
}
