// Source of the JSON strings: RFC 8259, section 7.
#include "answers.hpp"

#include <array>
#include <charconv>
#include <cstdint>
#include <map>
#include <stdexcept>

namespace safeguard {
namespace {

using Node = Grammar::Node;

enum : Mark { kSaysSafe = 1, kSaysUnsafe, kInCategory, kInRationale, kInThought };

constexpr std::string_view kTags[] = {"<think>", "</think>", "<answer>", "</answer>"};
constexpr std::string_view kEndOfThought = kTags[1];

// blank ( safe | unsafe ) [ "." ] blank, in the style's two words
void word(Grammar& grammar, std::string_view safe, std::string_view unsafe) {
  const Node from = grammar.blanks(Grammar::begin), said = grammar.node();
  grammar.skip(grammar.word(from, safe, kSaysSafe), said);
  grammar.skip(grammar.word(from, unsafe, kSaysUnsafe), said);
  const Node rest = grammar.blanks(said);
  grammar.skip(grammar.text(said, "."), rest);
  grammar.skip(rest, Grammar::end);
}

// thought "</think>": the only tag in it, whatever the letter case.
Node thought(Grammar& grammar, Node from) {
  const Node outside = grammar.node(kInThought), wide = grammar.node(), end = grammar.node();
  std::map<std::string, Node> begun = {{"", outside}};  // how much of a tag stands before the next byte
  for (const std::string_view tag : kTags)
    for (std::size_t length = 1; length < tag.size(); ++length)
      if (const std::string part(tag.substr(0, length)); !begun.count(part)) begun[part] = grammar.node(kInThought);
  for (const auto& [part, node] : begun) {
    for (unsigned char byte = 0; byte < 0x80; ++byte) {
      const std::string longer = part + static_cast<char>(byte >= 'A' && byte <= 'Z' ? byte + 32 : byte);
      bool is_tag = false;
      for (const std::string_view tag : kTags) is_tag = is_tag || longer == tag;
      if (longer == kEndOfThought)
        grammar.byte(node, end, byte, byte);
      else if (!is_tag)
        grammar.byte(node, begun.count(longer) ? begun[longer] : byte == '<' ? begun["<"] : outside, byte, byte);
    }
    grammar.skip(node, wide);
  }
  grammar.beyond_ascii(wide, outside, kInThought);
  grammar.skip(from, outside);
  return end;
}

// word | blank [ "<think>" thought "</think>" blank ] "<answer>" blank ( "yes" | "no" ) blank "</answer>" blank
void tagged(Grammar& grammar) {
  word(grammar, "safe", "unsafe");
  const Node first = grammar.blanks(Grammar::begin), before_answer = grammar.node(), said = grammar.node();
  grammar.skip(first, before_answer);
  grammar.skip(grammar.blanks(thought(grammar, grammar.word(first, "<think>"))), before_answer);
  const Node answer = grammar.blanks(grammar.word(before_answer, "<answer>"));
  grammar.skip(grammar.word(answer, "yes", kSaysSafe), said);
  grammar.skip(grammar.word(answer, "no", kSaysUnsafe), said);
  grammar.skip(grammar.blanks(grammar.word(grammar.blanks(said), "</answer>")), Grammar::end);
}

// A JSON string without lone surrogates; `mark` for all between its quotes.
Node json_string(Grammar& grammar, Node from, Mark mark) {
  const auto then = [&](Node node, std::string_view any_of) {
    const Node to = grammar.node(mark);
    grammar.byte(node, to, any_of);
    return to;
  };
  constexpr std::string_view kHex = "0123456789abcdefABCDEF";
  const Node inside = grammar.node(mark);
  grammar.skip(grammar.text(from, "\""), inside);
  grammar.byte(inside, inside, 0x20, 0x21);  // all of ASCII but controls, the quote and the backslash
  grammar.byte(inside, inside, 0x23, 0x5b);
  grammar.byte(inside, inside, 0x5d, 0x7f);
  grammar.beyond_ascii(inside, inside, mark);

  const Node escape = then(inside, "\\"), code = then(escape, "u"), d = then(code, "dD");
  grammar.byte(escape, inside, "\"\\/bfnrt");
  const Node last_two = then(then(code, "0123456789abcefABCEF"), kHex);
  grammar.byte(d, last_two, "01234567");
  grammar.byte(then(last_two, kHex), inside, kHex);

  const Node high = then(then(then(d, "89abAB"), kHex), kHex);
  const Node low = then(then(then(then(high, "\\"), "u"), "dD"), "cdefCDEF");
  grammar.byte(then(low, kHex), inside, kHex);
  return grammar.text(inside, "\"");
}

// "{" blank member { blank "," blank member } blank [ "," blank ] "}": nodes by the set of keys that have been read
Node object(Grammar& grammar, Node from) {
  constexpr unsigned kRating = 1, kCategory = 2, kRationale = 4, kSets = 8;
  std::array<Node, kSets> read;  // a member has ended, blanks included; read[0]: none yet
  for (Node& node : read) node = grammar.node();
  const Node end = grammar.node();
  const auto value_of = [&](Node before, std::string_view key) {
    return grammar.blanks(grammar.text(grammar.blanks(grammar.text(before, key)), ":"));
  };
  grammar.skip(grammar.text(from, "{"), read[0]);
  for (unsigned keys = 0; keys < kSets; ++keys) {
    const Node next = grammar.blanks(keys == 0 ? read[0] : grammar.text(read[keys], ","));
    const auto member_ends = [&](Node node, unsigned key) { grammar.skip(grammar.blanks(node), read[keys | key]); };
    if (!(keys & kRating)) {
      const Node value = value_of(next, "\"rating\"");
      member_ends(grammar.text(grammar.text(value, "\"Safe", kSaysSafe), "\""), kRating);
      member_ends(grammar.text(grammar.text(value, "\"Unsafe", kSaysUnsafe), "\""), kRating);
    } else {
      grammar.skip(grammar.text(read[keys], "}"), end);
      grammar.skip(grammar.text(next, "}"), end);
    }
    if (!(keys & kCategory)) member_ends(json_string(grammar, value_of(next, "\"category\""), kInCategory), kCategory);
    if (!(keys & kRationale))
      member_ends(json_string(grammar, value_of(next, "\"rationale\""), kInRationale), kRationale);
  }
  return end;
}

// blank ( object | "```" [ "json" ] blank object blank "```" ) blank
void json(Grammar& grammar) {
  const Node first = grammar.blanks(Grammar::begin), last = grammar.node();
  grammar.skip(object(grammar, first), last);
  const Node fence = grammar.text(first, "```"), fenced = grammar.blanks(fence);
  grammar.skip(grammar.text(fence, "json"), fenced);
  grammar.skip(grammar.text(grammar.blanks(object(grammar, fenced)), "```"), last);
  grammar.skip(grammar.blanks(last), Grammar::end);
}

template <class Draw>
Automaton compiled(Draw draw) {
  Grammar grammar;
  draw(grammar);
  return grammar.compile();
}

// Each is compiled when it is first asked for, in one or two milliseconds.
const Automaton& automaton_of(std::string_view style) {
  if (style == "direct") {
    static const Automaton direct = compiled([](Grammar& grammar) { word(grammar, "safe", "unsafe"); });
    return direct;
  }
  if (style == "yes-no") {
    static const Automaton yes_no = compiled([](Grammar& grammar) { word(grammar, "no", "yes"); });
    return yes_no;
  }
  if (style == "safeguard-vl") {
    static const Automaton safeguard_vl = compiled(tagged);
    return safeguard_vl;
  }
  if (style == "llavaguard") {
    static const Automaton llavaguard = compiled(json);
    return llavaguard;
  }
  throw std::invalid_argument("no grammar of answers for the prompt style '" + std::string(style) + "'");
}

void append_utf8(std::string& text, std::uint32_t code) {
  const auto tail = [&](int shift) { text.push_back(static_cast<char>(0x80 | (code >> shift & 0x3f))); };
  if (code < 0x80) {
    text.push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    text.push_back(static_cast<char>(0xc0 | code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    text.push_back(static_cast<char>(0xe0 | code >> 12));
    tail(6), tail(0);
  } else {
    text.push_back(static_cast<char>(0xf0 | code >> 18));
    tail(12), tail(6), tail(0);
  }
}

// A JSON string without its quotes, and known to be one → its text.
std::string decoded(std::string_view json) {
  constexpr std::string_view kLetters = "bfnrt", kControls = "\b\f\n\r\t";
  std::string text;
  const auto code_at = [&](std::size_t place) {
    std::uint32_t code = 0;
    std::from_chars(json.data() + place, json.data() + place + 4, code, 16);
    return code;
  };
  for (std::size_t i = 0; i < json.size(); ++i) {
    if (json[i] != '\\') {
      text.push_back(json[i]);
    } else if (json[++i] != 'u') {
      const std::size_t control = kLetters.find(json[i]);
      text.push_back(control == kLetters.npos ? json[i] : kControls[control]);
    } else {
      std::uint32_t code = code_at(i + 1);
      i += 4;
      if (code >= 0xd800 && code < 0xe000) {  // the first half of a pair, "\uXXXX" once more behind it
        code = 0x10000 + ((code - 0xd800) << 10) + (code_at(i + 3) - 0xdc00);
        i += 6;
      }
      append_utf8(text, code);
    }
  }
  return text;
}

}  // namespace

AnswerReader::AnswerReader(std::string_view style) : automaton_(&automaton_of(style)) {}

void AnswerReader::feed(std::string_view bytes) {
  const Automaton& automaton = *automaton_;
  Automaton::State state = state_;
  Mark mark = 0;
  std::size_t first = 0;  // of a run of bytes with this mark
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    state = automaton.next(state, static_cast<unsigned char>(bytes[i]));
    if (automaton.mark(state) != mark) {
      keep(mark, bytes.substr(first, i - first));
      mark = automaton.mark(state);
      first = i;
    }
  }
  keep(mark, bytes.substr(first));
  state_ = state;
}

void AnswerReader::keep(Mark mark, std::string_view bytes) {
  switch (mark) {
    case kSaysSafe: label_ = "safe"; break;
    case kSaysUnsafe: label_ = "unsafe"; break;
    case kInCategory: category_ += bytes; break;
    case kInRationale: rationale_ += bytes; break;
    case kInThought: thought_ += bytes; break;
    default: break;
  }
}

bool AnswerReader::admits(std::string_view bytes) const {
  Automaton::State state = state_;
  for (const char byte : bytes) state = automaton_->next(state, static_cast<unsigned char>(byte));
  return state != Automaton::dead;
}

std::bitset<256> AnswerReader::allowed() const {
  std::bitset<256> bytes;
  for (unsigned byte = 0; byte < 256; ++byte)
    bytes[byte] = automaton_->next(state_, static_cast<unsigned char>(byte)) != Automaton::dead;
  return bytes;
}

AnswerFields AnswerReader::fields() const {
  const std::size_t tag = kEndOfThought.size() - 1;  // its last byte ends the thought and is not in it
  return {label_, decoded(category_),
          thought_.empty() ? decoded(rationale_) : thought_.substr(0, thought_.size() - tag)};
}

}  // namespace safeguard
