// Generated answers, read byte by byte. The grammars are those of safeguard_sdk/prompt.py, whose parser is the
// definition; tests/test_answers.py holds the two together. No Python in this file.
#pragma once

#include <bitset>
#include <string>
#include <string_view>

#include "automaton.hpp"

namespace safeguard {

// What a complete answer says, in UTF-8, as the model wrote it: not stripped, JSON strings decoded.
struct AnswerFields {
  std::string label;      // "safe" or "unsafe"
  std::string category;   // empty if it has none
  std::string rationale;  // likewise
};

// Reads one answer. Each byte costs one look-up; memory holds a few words and the text of category and rationale.
// Not for use by several threads at once.
class AnswerReader {
 public:
  // `style`: a grammar of PROMPTS. Throws std::invalid_argument if none here has that name.
  explicit AnswerReader(std::string_view style);

  void feed(std::string_view bytes);
  bool dead() const { return state_ == Automaton::dead; }           // no answer begins so
  bool complete() const { return automaton_->accepts(state_); }     // an answer as it stands; blanks may still follow
  bool admits(std::string_view bytes) const;                        // would not be dead after these bytes
  std::bitset<256> allowed() const;                                 // the bytes of which admits() is true
  AnswerFields fields() const;                                      // only if complete()

 private:
  void keep(Mark mark, std::string_view bytes);

  const Automaton* automaton_;
  Automaton::State state_ = Automaton::start;
  const char* label_ = "";
  std::string category_, rationale_;  // JSON strings without their quotes
  std::string thought_;               // with the beginning of the tag that ends it
};

}  // namespace safeguard
