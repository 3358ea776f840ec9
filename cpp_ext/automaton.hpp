// Regular languages over bytes: a grammar is drawn as a graph, compiled once into a table, and then only looked up.
// No Python in this file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace safeguard {

using Mark = std::uint8_t;  // what a byte means to whoever reads along; 0 is nothing, the rest is the grammar's

// Deterministic. Every state but `dead` lies on a path to an accepting one, so a byte leads elsewhere than to `dead`
// exactly if the language has a word that goes on with it.
class Automaton {
 public:
  using State = std::uint16_t;
  static constexpr State dead = 0, start = 1;

  State next(State state, unsigned char byte) const { return next_[state * classes_ + class_of_[byte]]; }
  bool accepts(State state) const { return accepts_[state] != 0; }
  Mark mark(State state) const { return marks_[state]; }  // of the byte that led there

 private:
  friend class Grammar;
  std::array<std::uint8_t, 256> class_of_{};  // bytes that no state tells apart share a column of the table
  std::size_t classes_ = 0;
  std::vector<State> next_;  // (states, classes)
  std::vector<std::uint8_t> accepts_;
  std::vector<Mark> marks_;
};

// A graph of nodes; a path from `begin` to `end` spells a word. Functions that take `from` draw a piece that starts
// there and return the node at its end.
class Grammar {
 public:
  using Node = std::uint32_t;
  static constexpr Node begin = 0, end = 1;

  Grammar() : nodes_(2) {}

  Node node(Mark mark = 0);  // `mark` is given to each byte that leads here
  void skip(Node from, Node to);
  void byte(Node from, Node to, unsigned char first, unsigned char last);
  void byte(Node from, Node to, std::string_view any_of);

  Node text(Node from, std::string_view exact, Mark last = 0);   // `last`: the mark of its last byte
  Node word(Node from, std::string_view lower, Mark last = 0);   // letters in any ASCII case
  Node blanks(Node from);                                        // any number of " ", "\t", "\r", "\n"
  void beyond_ascii(Node from, Node to, Mark mark);  // a character of 2 to 4 bytes, as well-formed UTF-8 has them

  // Throws std::logic_error if a byte has two marks at once or no word exists.
  Automaton compile() const;

 private:
  struct Edge {
    unsigned char first, last;
    Node to;
  };
  struct Place {
    Mark mark = 0;
    std::vector<Node> skips;
    std::vector<Edge> edges;
  };

  Node spell(Node from, std::string_view text, bool any_case, Mark last);
  std::vector<Node> reached(const std::vector<Node>& nodes) const;
  Mark mark_of(const std::vector<Node>& nodes) const;

  std::vector<Place> nodes_;
};

}  // namespace safeguard
