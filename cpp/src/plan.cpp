#include "plan.h"

#include <algorithm>
#include <map>

#include "error.h"

namespace bitshift {
namespace {

// Free blocks of an arena that grows at its end; neighbours are joined.
class Arena {
 public:
  explicit Arena(std::uint64_t limit) : limit_(limit) {}

  std::size_t take(std::size_t bytes) {
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (!bytes) return 0;
    auto best = by_size_.lower_bound(bytes);
    if (best != by_size_.end()) {
      const std::size_t at = best->second, size = best->first;
      erase(at);
      if (size > bytes) insert(at + bytes, size - bytes);
      return at;
    }
    // Nothing fits: grow, beginning with a free block at the end if there is one.
    std::size_t at = end_;
    if (!by_offset_.empty()) {
      const auto last = std::prev(by_offset_.end());
      if (last->first + last->second == end_) {
        at = last->first;
        erase(at);
      }
    }
    end_ = at + bytes;
    if (end_ > limit_)
      throw UsageError("the activations of one sample need more than " + std::to_string(limit_) +
                       " bytes, the memory limit; raise memory_limit or use a smaller input");
    return at;
  }

  void give(std::size_t at, std::size_t bytes) {
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (!bytes) return;
    const auto next = by_offset_.lower_bound(at);
    if (next != by_offset_.end() && next->first == at + bytes) {
      bytes += next->second;
      erase(next->first);
    }
    const auto after = by_offset_.lower_bound(at);
    if (after != by_offset_.begin()) {
      const auto before = std::prev(after);
      if (before->first + before->second == at) {
        at = before->first;
        bytes += before->second;
        erase(at);
      }
    }
    insert(at, bytes);
  }

  std::size_t size() const { return end_; }

 private:
  void insert(std::size_t at, std::size_t bytes) {
    by_offset_.emplace(at, bytes);
    by_size_.emplace(bytes, at);
  }

  void erase(std::size_t at) {
    const auto block = by_offset_.find(at);
    auto entry = by_size_.lower_bound(block->second);
    while (entry->second != at) ++entry;
    by_size_.erase(entry);
    by_offset_.erase(block);
  }

  std::map<std::size_t, std::size_t> by_offset_;
  std::multimap<std::size_t, std::size_t> by_size_;
  std::size_t end_ = 0;
  std::uint64_t limit_;
};

// Beyond this many areas and steps nothing is kept: comparing all pairs would take longer than filling borders.
constexpr std::size_t kMostCompared = 4096;

// Bytes of a taken block.
struct Block {
  std::size_t at = 0, bytes = 0;
};

}  // namespace

Plan make_plan(const Program &program, std::int64_t samples, int threads, std::uint64_t limit) {
  const std::size_t areas = program.areas.size(), count = program.steps.size();
  Plan plan;
  plan.samples = samples;
  plan.offset.assign(areas, 0);
  plan.kept.assign(areas, 0);
  auto root = [&](int area) { return static_cast<std::size_t>(program.areas[static_cast<std::size_t>(area)].root); };
  auto bytes_of = [&](std::size_t area) { return program.areas[area].stride * static_cast<std::size_t>(samples); };

  // First and last step that touch a root; an output lives to the end.
  std::vector<std::size_t> first(areas, count), last(areas, 0);
  for (std::size_t i = 0; i < count; i++) {
    const Step &step = program.steps[i];
    auto touch = [&](int area) {
      first[root(area)] = std::min(first[root(area)], i);
      last[root(area)] = i;
    };
    for (int area : step.reads) touch(area);
    touch(step.writes);
  }
  for (int output : program.outputs) last[root(output)] = count;
  std::vector<std::vector<std::size_t>> begins(count + 1), ends(count + 1);
  for (std::size_t a = 0; a < areas; a++) {
    if (first[a] == count || program.areas[a].input >= 0) continue;
    begins[first[a]].push_back(a);
    ends[last[a]].push_back(a);
  }

  Arena arena(limit);
  std::vector<Block> scratch(count);
  for (std::size_t i = 0; i < count; i++) {
    for (std::size_t a : begins[i]) plan.offset[a] = arena.take(bytes_of(a));
    const Step &step = program.steps[i];
    scratch[i].bytes = step.scratch ? std::max(step.scratch(samples, threads), step.scratch(samples, 1)) : 0;
    if (scratch[i].bytes > limit)
      throw UsageError("node " + quoted(step.name) + " [" + step.op + "] needs " + std::to_string(scratch[i].bytes) +
                       " bytes of scratch memory; the memory limit is " + std::to_string(limit));
    scratch[i].at = arena.take(scratch[i].bytes);
    plan.scratch.push_back(scratch[i].at);
    arena.give(scratch[i].at, scratch[i].bytes);
    for (std::size_t a : ends[i]) arena.give(plan.offset[a], bytes_of(a));
  }
  plan.arena = arena.size();

  if (areas + count > kMostCompared) return plan;
  for (std::size_t a = 0; a < areas; a++) {
    if (!program.areas[a].border || first[a] == count) continue;
    const std::size_t begin = plan.offset[a], end = begin + bytes_of(a);
    auto apart = [&](std::size_t at, std::size_t bytes) { return at >= end || at + bytes <= begin; };
    bool alone = true;
    for (std::size_t o = 0; alone && o < areas; o++)
      alone = o == a || first[o] == count || program.areas[o].input >= 0 || apart(plan.offset[o], bytes_of(o));
    for (std::size_t i = 0; alone && i < count; i++) alone = !scratch[i].bytes || apart(scratch[i].at, scratch[i].bytes);
    plan.kept[a] = alone;
  }
  return plan;
}

}  // namespace bitshift
