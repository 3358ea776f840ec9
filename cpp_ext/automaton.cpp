// Source: Rabin and Scott 1959, the subset construction; The Unicode Standard, table 3-7, well-formed UTF-8.
#include "automaton.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <stdexcept>

namespace safeguard {
namespace {

using State = Automaton::State;

// Leaves only steps from which an accepting state can still be reached; the others lead to `dead`.
void cut_dead_ends(std::vector<State>& next, const std::vector<std::uint8_t>& accepts, std::size_t classes) {
  std::vector<std::vector<State>> before(accepts.size());
  for (std::size_t i = 0; i < next.size(); ++i) before[next[i]].push_back(static_cast<State>(i / classes));
  std::vector<std::uint8_t> alive = accepts;
  std::vector<State> open;
  for (std::size_t state = 0; state < accepts.size(); ++state)
    if (accepts[state]) open.push_back(static_cast<State>(state));
  while (!open.empty()) {
    const State state = open.back();
    open.pop_back();
    for (const State one : before[state])
      if (!alive[one]) {
        alive[one] = 1;
        open.push_back(one);
      }
  }
  if (!alive[Automaton::start]) throw std::logic_error("a grammar without a single word");
  for (State& to : next)
    if (!alive[to]) to = Automaton::dead;
}

}  // namespace

Grammar::Node Grammar::node(Mark mark) {
  nodes_.emplace_back().mark = mark;
  return static_cast<Node>(nodes_.size() - 1);
}

void Grammar::skip(Node from, Node to) { nodes_[from].skips.push_back(to); }

void Grammar::byte(Node from, Node to, unsigned char first, unsigned char last) {
  nodes_[from].edges.push_back({first, last, to});
}

void Grammar::byte(Node from, Node to, std::string_view any_of) {
  for (const unsigned char one : any_of) byte(from, to, one, one);
}

Grammar::Node Grammar::spell(Node from, std::string_view text, bool any_case, Mark last) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto letter = static_cast<unsigned char>(text[i]);
    const Node to = node(i + 1 == text.size() ? last : Mark{0});
    byte(from, to, letter, letter);
    if (any_case && letter >= 'a' && letter <= 'z') byte(from, to, letter - 32, letter - 32);
    from = to;
  }
  return from;
}

Grammar::Node Grammar::text(Node from, std::string_view exact, Mark last) { return spell(from, exact, false, last); }

Grammar::Node Grammar::word(Node from, std::string_view lower, Mark last) { return spell(from, lower, true, last); }

Grammar::Node Grammar::blanks(Node from) {
  const Node blank = node();
  skip(from, blank);
  byte(blank, blank, " \t\r\n");
  return blank;
}

void Grammar::beyond_ascii(Node from, Node to, Mark mark) {
  const Node three = node(mark), two = node(mark), one = node(mark);  // so many bytes are still to come
  byte(three, two, 0x80, 0xbf);
  byte(two, one, 0x80, 0xbf);
  byte(one, to, 0x80, 0xbf);
  const auto lead = [&](unsigned char first, unsigned char last, unsigned char low, unsigned char high, Node then) {
    const Node second = node(mark);
    byte(from, second, first, last);
    byte(second, then, low, high);
  };
  byte(from, one, 0xc2, 0xdf);
  lead(0xe0, 0xe0, 0xa0, 0xbf, one);  // below would be overlong
  byte(from, two, 0xe1, 0xec);
  lead(0xed, 0xed, 0x80, 0x9f, one);  // above are surrogates
  byte(from, two, 0xee, 0xef);
  lead(0xf0, 0xf0, 0x90, 0xbf, two);
  byte(from, three, 0xf1, 0xf3);
  lead(0xf4, 0xf4, 0x80, 0x8f, two);  // Unicode ends at U+10FFFF
}

std::vector<Grammar::Node> Grammar::reached(const std::vector<Node>& nodes) const {
  std::vector<Node> all = nodes;
  for (std::size_t i = 0; i < all.size(); ++i)
    for (const Node to : nodes_[all[i]].skips)
      if (std::find(all.begin(), all.end(), to) == all.end()) all.push_back(to);
  return all;
}

Mark Grammar::mark_of(const std::vector<Node>& nodes) const {
  Mark mark = 0;
  for (const Node node : nodes) {
    if (mark && nodes_[node].mark && nodes_[node].mark != mark) throw std::logic_error("a byte with two marks");
    mark = std::max(mark, nodes_[node].mark);
  }
  return mark;
}

Automaton Grammar::compile() const {
  Automaton automaton;
  std::array<bool, 257> boundary{};  // where the bytes of some edge begin or have ended
  for (const Place& place : nodes_)
    for (const Edge& edge : place.edges) boundary[edge.first] = boundary[edge.last + 1] = true;
  std::vector<unsigned char> representatives;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    if (byte == 0 || boundary[byte]) representatives.push_back(static_cast<unsigned char>(byte));
    automaton.class_of_[byte] = static_cast<std::uint8_t>(representatives.size() - 1);
  }
  automaton.classes_ = representatives.size();

  // A state is the set of nodes that its last byte may have led to; the empty set is `dead`.
  std::vector<std::vector<Node>> sets = {{}, {begin}};
  std::map<std::vector<Node>, State> state_of = {{sets[0], Automaton::dead}, {sets[1], Automaton::start}};
  for (std::size_t state = 0; state < sets.size(); ++state) {
    const std::vector<Node> here = reached(sets[state]);
    automaton.accepts_.push_back(std::find(here.begin(), here.end(), end) != here.end());
    automaton.marks_.push_back(mark_of(sets[state]));
    for (const unsigned char byte : representatives) {
      std::vector<Node> there;
      for (const Node node : here)
        for (const Edge& edge : nodes_[node].edges)
          if (edge.first <= byte && byte <= edge.last) there.push_back(edge.to);
      std::sort(there.begin(), there.end());
      there.erase(std::unique(there.begin(), there.end()), there.end());
      const auto [found, is_new] = state_of.try_emplace(there, static_cast<State>(sets.size()));
      if (is_new) sets.push_back(there);
      if (sets.size() > std::numeric_limits<State>::max()) throw std::logic_error("a grammar with too many states");
      automaton.next_.push_back(found->second);
    }
  }
  cut_dead_ends(automaton.next_, automaton.accepts_, automaton.classes_);
  return automaton;
}

}  // namespace safeguard
