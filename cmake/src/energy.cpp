// What the system's files tell of energy: Documentation/power/powercap/powercap.rst and Documentation/hwmon of Linux.
#include "energy.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace edgekd::bench {
namespace {

// The first line of a file; empty if it cannot be read, and errno says why.
std::string line_of(const std::string& path) {
    char line[128] = "";
    errno = 0;
    if (std::FILE* file = std::fopen(path.c_str(), "r")) {
        if (std::fgets(line, sizeof line, file) == nullptr) line[0] = '\0';
        const int error = errno;
        std::fclose(file);
        errno = error;
    }
    return std::string(line, std::strcspn(line, "\r\n"));
}

// The number that a file holds; NaN if it holds none.
double number_of(const std::string& path) {
    const std::string line = line_of(path);
    char* end = nullptr;
    const double value = std::strtod(line.c_str(), &end);
    return end == line.c_str() ? std::nan("") : value;
}

std::string name_of(const std::string& path, const std::string& otherwise) {
    const std::string line = line_of(path);
    return line.empty() ? otherwise : line;
}

bool starts(const std::string& text, const char* with) { return text.compare(0, std::strlen(with), with) == 0; }

// What of `names` is between these two; empty of any other name.
std::string between(const std::string& name, const char* first, const char* last) {
    const std::size_t before = std::strlen(first), behind = std::strlen(last);
    const bool fits = name.size() > before + behind && starts(name, first) && name.substr(name.size() - behind) == last;
    return fits ? name.substr(before, name.size() - before - behind) : "";
}

// The names in a folder, in order; none if it cannot be read.
std::vector<std::string> names_in(const std::string& folder) {
    std::vector<std::string> found;
    std::error_code error;
    for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
        found.push_back(at->path().filename().string());
    std::sort(found.begin(), found.end());
    return found;
}

}  // namespace

Meter::Meter(const std::string& system) {
    find_zones(system + "/class/powercap/");
    if (counters_.empty()) find_lines(system);
    std::vector<std::string> files;
    for (const Counter& counter : counters_) files.push_back(counter.file);
    for (const Line& line : lines_) files.insert(files.end(), line.files.begin(), line.files.end());
    if (files.empty()) why_ = "not readable here: no RAPL counter and no INA power monitor in " + system;
    for (const std::string& file : files) {
        if (!std::isnan(number_of(file))) continue;
        why_ = "not readable here: " + file + ": " + (errno != 0 ? std::strerror(errno) : "it holds no number");
        counters_.clear();
        lines_.clear();
        break;
    }
}

// Packages, and the memory that belongs to them; cores are part of a package, and "psys" holds the packages.
void Meter::find_zones(const std::string& powercap) {
    for (const std::string& zone : names_in(powercap)) {
        if (!starts(zone, "intel-rapl:")) continue;
        const std::string folder = powercap + zone;
        const std::string name = line_of(folder + "/name");
        const double most = number_of(folder + "/max_energy_range_uj");
        if (starts(name, "package") || name == "dram") counters_.push_back({name, folder + "/energy_uj", std::isnan(most) ? 0 : most});
    }
}

// Supply lines of INA monitors: milliwatts (the industrial I/O driver), microwatts, or millivolts and milliamperes (hwmon).
void Meter::find_lines(const std::string& system) {
    const std::string devices = system + "/bus/iio/devices/";
    for (const std::string& device : names_in(devices)) {
        const std::string folder = devices + device + '/';
        for (const std::string& file : names_in(folder))
            if (const std::string number = between(file, "in_power", "_input"); !number.empty())
                lines_.push_back({name_of(folder + "rail_name_" + number, file), {folder + file}, 1e-3});
    }
    const std::string monitors = system + "/class/hwmon/";
    for (const std::string& device : names_in(monitors)) {
        const std::string folder = monitors + device + '/';
        if (!starts(line_of(folder + "name"), "ina")) continue;
        const std::vector<std::string> files = names_in(folder);
        const std::size_t known = lines_.size();
        for (const std::string& file : files)
            if (const std::string number = between(file, "power", "_input"); !number.empty())
                lines_.push_back({name_of(folder + "power" + number + "_label", device), {folder + file}, 1e-6});
        for (const std::string& file : lines_.size() > known ? std::vector<std::string>{} : files) {
            const std::string number = between(file, "curr", "_input");
            const std::string voltage = folder + "in" + number + "_input";
            const std::string label = line_of(folder + "in" + number + "_label");
            if (!number.empty() && std::filesystem::is_regular_file(voltage) && !starts(label, "sum"))
                lines_.push_back({label.empty() ? device + ' ' + number : label, {voltage, folder + file}, 1e-6});
        }
    }
    const auto part = [](const Line& line) { return line.name != "VDD_IN" && line.name != "POM_5V_IN"; };
    if (!std::all_of(lines_.begin(), lines_.end(), part))  // the line that feeds a whole Jetson board holds the others
        lines_.erase(std::remove_if(lines_.begin(), lines_.end(), part), lines_.end());
}

std::string Meter::of() const {
    std::string found;
    for (const Counter& counter : counters_) found += (found.empty() ? "" : ", ") + counter.name;
    for (const Line& line : lines_) found += (found.empty() ? "" : ", ") + line.name;
    return found;
}

double Meter::watts() const {
    double found = 0;
    for (const Line& line : lines_) {
        double power = line.scale;
        for (const std::string& file : line.files) power *= number_of(file);
        found += power;
    }
    return found;
}

void Meter::start() {
    before_.clear();
    for (const Counter& counter : counters_) before_.push_back(number_of(counter.file));
    watts_ = watts();
    started_ = std::chrono::steady_clock::now();
}

double Meter::stop() const {
    if (!why_.empty()) return std::nan("");
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
    double joules = 0;
    for (std::size_t i = 0; i < counters_.size(); ++i) {
        double spent = number_of(counters_[i].file) - before_[i];
        if (spent < 0) spent = counters_[i].most >= before_[i] ? spent + counters_[i].most : std::nan("");  // it began again
        joules += spent / 1e6;
    }
    return joules + (lines_.empty() ? 0 : (watts_ + watts()) / 2 * seconds);
}

}  // namespace edgekd::bench
