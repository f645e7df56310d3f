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

}  // namespace

Plan make_plan(const Graph &graph, const std::vector<Step> &steps, std::uint64_t limit) {
  Plan plan;
  const std::size_t values = graph.values.size(), count = graph.nodes.size();
  plan.root.resize(values);
  for (std::size_t i = 0; i < values; i++) plan.root[i] = static_cast<int>(i);
  plan.offset.assign(values, 0);
  auto root = [&](int value) { return static_cast<std::size_t>(plan.root[static_cast<std::size_t>(value)]); };
  for (std::size_t i = 0; i < count; i++)
    if (!steps[i].run) plan.root[static_cast<std::size_t>(graph.nodes[i].output)] = static_cast<int>(root(graph.nodes[i].inputs[0]));

  // The step behind which a root is free: its own if nobody reads it, none (count) if it is an output.
  std::vector<std::size_t> last(values, 0);
  for (std::size_t i = 0; i < count; i++) {
    for (int input : graph.nodes[i].inputs) last[root(input)] = i;
    std::size_t &own = last[root(graph.nodes[i].output)];
    own = std::max(own, i);
  }
  for (int output : graph.outputs) last[root(output)] = count;
  std::vector<std::vector<std::size_t>> freed(count + 1);
  for (const Node &node : graph.nodes) {
    const auto value = static_cast<std::size_t>(node.output);
    if (root(node.output) == value) freed[last[value]].push_back(value);
  }

  Arena arena(limit);
  for (std::size_t i = 0; i < count; i++) {
    const auto value = static_cast<std::size_t>(graph.nodes[i].output);
    if (root(graph.nodes[i].output) == value) plan.offset[value] = arena.take(graph.values[value].bytes());
    plan.scratch.push_back(arena.take(steps[i].scratch));
    arena.give(plan.scratch.back(), steps[i].scratch);
    for (std::size_t dead : freed[i]) arena.give(plan.offset[dead], graph.values[dead].bytes());
  }
  plan.arena = arena.size();
  return plan;
}

}  // namespace bitshift
