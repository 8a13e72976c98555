// Threads that help the calling one with the items of a stage.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace outthink {

// The calling thread, number 0, never waits for another to come: it does every item that nobody else has begun. So a
// thread that the system does not run costs nothing, unless it was stopped in the midst of an item.
// Helpers that find no work look for it for about 50 us, then sleep.
class Pool {
   public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int size() const { return threads_; }

    // Whether the calls of `each` that follow are worth the time a sleeping thread takes to come: then helpers are woken
    // at once, and again where one has fallen asleep between two calls.
    void expect(bool much);

    // Calls function(item, thread) for every item in [0, items), and returns when all have returned. Neighbouring
    // items tend to go to one thread. `alone`: on the calling thread. Not reentrant.
    template <class Function>
    void each(int items, bool alone, Function&& function) {
        if (alone || threads_ == 1 || items <= 1) {
            for (int item = 0; item < items; ++item) function(item, 0);
            return;
        }
        const auto call = [](void* context, int item, int thread) {
            (*static_cast<std::remove_reference_t<Function>*>(context))(item, thread);
        };
        run(items, call, &function);
    }

   private:
    using Call = void (*)(void* context, int item, int thread);
    struct Shared;

    void start();
    void abandon();
    void run(int items, Call call, void* context);

    const int threads_;
    int fork_count_;
    bool much_ = false;
    std::unique_ptr<Shared> shared_;
    std::vector<std::thread> helpers_;
};

}  // namespace outthink
