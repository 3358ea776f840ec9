#include "thread_pool.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

namespace safeguard {
namespace {

// Joins on every way out: a thread that is destroyed while it runs ends the process.
class Workers {
 public:
  ~Workers() { join(); }
  void start(const std::function<void()>& work) { threads_.emplace_back(work); }
  void join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  std::vector<std::thread> threads_;
};

}  // namespace

void run_on_threads(std::size_t jobs, std::size_t threads, const std::function<void(std::size_t)>& job) {
  std::atomic<std::size_t> next{0};
  std::vector<std::exception_ptr> failures(jobs);
  const auto work = [&] {
    for (std::size_t number; (number = next++) < jobs;) {
      try {
        job(number);
      } catch (...) {
        failures[number] = std::current_exception();
      }
    }
  };
  {
    Workers workers;
    for (std::size_t extra = 1; extra < std::min(threads, jobs); ++extra) workers.start(work);
    work();
  }
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace safeguard
