// Tokenizer: a text to a student's inputs, as edgekd/tokenizer.py makes them. Named by tokenizer.cpp alone, so that a program
// that calls neither edgekd_tokenize nor edgekd_run_text holds none of it.
#pragma once

#include "json.hpp"
#include "settings.hpp"
#include "signature.hpp"
#include "wordpiece.hpp"

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace edgekd::core {

class Tokenizer {
  public:
    // Contents by the file's name in tokenizer/.
    using Held = std::map<std::string, std::vector<unsigned char>>;

    // A text, or two, as numbers: those from `behind` on are the second's. `length` of an input, the rest of it filled up.
    struct Text {
        std::vector<std::int32_t> ids;
        std::size_t behind;
        std::size_t length;
    };

    // `signature` is that of bundle.json; `held` is looked at as long as this lives. Failures: EDGEKD_INVALID_ARGUMENT for what
    // this library does not apply, EDGEKD_DAMAGED for a vocabulary that is none.
    Tokenizer(const Json& signature, const Held& held);

    // `pair` null: one text.
    Text read(const std::vector<Port>& ports, std::string_view text, const std::string_view* pair) const;
    // One input of it, into room for `length` elements of the port's type.
    void fill(const Text& text, const Port& port, void* out) const;

  private:
    Tokenizer(const Settings& settings, const Held& held);
    std::size_t length_of(const std::vector<Port>& ports) const;

    std::string ids_, mask_, types_;  // what the inputs are called
    std::size_t most_;                // 0: not said
    WordPiece pieces_;
};

}  // namespace edgekd::core
