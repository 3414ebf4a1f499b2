// threads BUNDLE CALLS: two threads on one student; each must get the answers to its own inputs. A third looks at the metadata.
#include "check.hpp"

#include <edgekd/student.hpp>

#include <array>
#include <cstdlib>
#include <thread>

int main(int count, char** words) {
    if (count != 3) return 2;
    const int calls = std::atoi(words[2]);
    edgekd::Student student;
    CHECK(student.open(words[1]));
    std::array<int, 3> wrong{};  // one a thread: CHECK counts in one place
    const auto work = [&](float value, int& mine) {
        std::array<float, 64> x;
        std::array<float, 5> y{}, first{};
        x.fill(value);
        mine += student.run(x, first) ? 0 : 1;
        for (int i = 0; i < calls; ++i) mine += student.run(x, y) && y == first ? 0 : 1;
    };
    std::thread one(work, 1.0f, std::ref(wrong[0])), other(work, -2.0f, std::ref(wrong[1])), looker([&] {
        for (int i = 0; i < calls; ++i) wrong[2] += student.input().count == 64 && student.label(0)[0] == 'a' ? 0 : 1;
    });
    one.join();
    other.join();
    looker.join();
    for (const int one_wrong : wrong) CHECK(one_wrong == 0);
    return failures == 0 ? 0 : 1;
}
