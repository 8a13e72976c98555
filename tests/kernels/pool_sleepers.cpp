// Whether helpers of a pool come again after they have fallen asleep between two stages. Exits with 1 if one has not
// come within argv[1] seconds.
#include <chrono>
#include <cstdlib>
#include <thread>

#include "pool.h"

int main(int, char** arguments) {
    using Clock = std::chrono::steady_clock;
    const auto patience = std::chrono::seconds(std::atoi(arguments[1]));
    outthink::Pool pool(2);
    pool.expect(true);
    for (int stage = 0; stage < 3; ++stage) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));  // a thousand times as long as helpers look for work
        std::atomic<int> begun{0};
        bool came = true;
        const auto end = Clock::now() + patience;
        pool.each(2, false, [&](int, int thread) {
            begun.fetch_add(1);
            while (thread == 0 && came && begun.load() < 2) {
                std::this_thread::yield();
                came = Clock::now() < end;
            }
        });
        if (!came) return 1;
    }
    return 0;
}
