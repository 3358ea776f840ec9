// Threads for one batch. They end with it: none is left idle, and none is there to be lost in a fork.
#pragma once

#include <cstddef>
#include <functional>

namespace safeguard {

// Runs job(0) to job(jobs - 1), at most `threads` at a time; the calling thread is one of them. Each job runs once,
// whatever the others do. Then throws what the first failed job, by number, has thrown; std::system_error where the
// operating system gives no thread.
void run_on_threads(std::size_t jobs, std::size_t threads, const std::function<void(std::size_t)>& job);

}  // namespace safeguard
