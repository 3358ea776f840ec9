// Verdict decoding as Python sees it: arguments are checked here, the arithmetic is beside this file.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "answers.hpp"
#include "bindings.hpp"
#include "verdict_logits.hpp"

namespace safeguard {
namespace {

namespace py = pybind11;

LogitType logit_type(const py::dtype& dtype) {
  if (dtype.equal(py::dtype::of<float>())) return LogitType::float32;
  if (dtype.equal(py::dtype("float16"))) return LogitType::float16;
  if (dtype.equal(py::dtype::of<std::uint16_t>())) return LogitType::bfloat16;
  throw py::type_error("logits are " + py::str(dtype).cast<std::string>() +
                       ", must be float32, float16, or uint16 with the bits of bfloat16");
}

std::size_t token_id(py::ssize_t token, std::size_t vocabulary) {
  if (token < 0 || static_cast<std::size_t>(token) >= vocabulary)
    throw py::index_error("token " + std::to_string(token) + " is none of the " + std::to_string(vocabulary) +
                          " that the logits are for");
  return static_cast<std::size_t>(token);
}

py::array_t<double> log_probabilities_of(const py::array& logits, py::ssize_t safe, py::ssize_t unsafe,
                                         bool portable) {
  if (logits.ndim() != 1 && logits.ndim() != 2)
    throw py::value_error("logits have " + std::to_string(logits.ndim()) +
                          " dimensions, must be (rows, vocabulary) or (vocabulary,)");
  const bool single = logits.ndim() == 1;
  const py::ssize_t tokens = single ? 0 : 1;  // the dimension of the vocabulary
  const LogitTable table{
      static_cast<const char*>(logits.data()), logit_type(logits.dtype()),
      single ? 1 : static_cast<std::size_t>(logits.shape(0)), static_cast<std::size_t>(logits.shape(tokens)),
      single ? 0 : logits.strides(0), logits.strides(tokens)};
  if (safe == unsafe) throw py::value_error("the verdict tokens are both " + std::to_string(safe) + ", must differ");
  const std::size_t safe_id = token_id(safe, table.vocabulary), unsafe_id = token_id(unsafe, table.vocabulary);
  std::vector<py::ssize_t> shape(logits.shape(), logits.shape() + logits.ndim());
  shape.back() = 2;
  py::array_t<double> out(shape);
  double* first = out.mutable_data();
  {
    const py::gil_scoped_release released;
    verdict_log_probabilities(table, safe_id, unsafe_id, portable, first);
  }
  return out;
}

const char* state(const AnswerReader& reader) {
  return reader.dead() ? "dead" : reader.complete() ? "complete" : "open";
}

py::array_t<bool> allowed(const AnswerReader& reader) {
  const std::bitset<256> bytes = reader.allowed();
  py::array_t<bool> mask(256);
  for (py::ssize_t byte = 0; byte < 256; ++byte) mask.mutable_at(byte) = bytes[static_cast<std::size_t>(byte)];
  return mask;
}

std::optional<py::tuple> fields(const AnswerReader& reader) {
  if (!reader.complete()) return std::nullopt;
  const AnswerFields found = reader.fields();
  return py::make_tuple(found.label, found.category, found.rationale);
}

}  // namespace

void bind_decoding(py::module_& m) {
  m.def("verdict_log_probabilities", &log_probabilities_of, py::arg("logits"), py::arg("safe"), py::arg("unsafe"),
        py::kw_only(), py::arg("portable") = false, "Logits of a vocabulary to log-probabilities of two tokens.");

  // The GIL stays held: a reader changes as it reads, and a byte takes a few nanoseconds.
  py::class_<AnswerReader>(m, "AnswerAutomaton", "A generated answer, read byte by byte.")
      .def(py::init<const std::string&>(), py::arg("style"))
      .def("feed", [](AnswerReader& reader, const py::bytes& piece) { reader.feed(piece); }, py::arg("piece"),
           "Read on.")
      .def("admits", [](const AnswerReader& reader, const py::bytes& piece) { return reader.admits(piece); },
           py::arg("piece"), "Whether an answer can go on with these bytes; reads nothing.")
      .def_property_readonly("state", &state, "\"dead\", \"open\" or \"complete\".")
      .def("allowed", &allowed, "(256,) bool: the bytes that an answer can go on with.")
      .def("fields", &fields, "(label, category, rationale) of a complete answer, None of any other.");
}

}  // namespace safeguard
