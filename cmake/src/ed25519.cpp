// Ed25519 as RFC 8032 words it, section 5.1: numbers modulo p = 2^255 - 19, points of the curve, and what a signature must be.
// Written to be read: numbers are 8 words of 32 bits, and one formula adds points, doubling included.
#include "ed25519.hpp"

#include <algorithm>
#include <cstdint>
#include <string>

namespace edgekd::core {
namespace {

// A number below 2^256, least significant word first.
using Number = std::array<std::uint32_t, 8>;

constexpr Number kPrime = {0xffffffed, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x7fffffff};
// L, the order of the base point: 2^252 + 27742317777372353535851937790883648493.
constexpr Number kOrder = {0x5cf5d3ed, 0x5812631a, 0xa2f79cd6, 0x14def9de, 0, 0, 0, 0x10000000};

Number small(std::uint32_t value) noexcept {
    Number made{};
    made[0] = value;
    return made;
}

Number read(const unsigned char* octets) noexcept {
    Number made{};
    for (std::size_t i = 0; i < 32; ++i) made[i / 4] |= std::uint32_t{octets[i]} << (8 * (i % 4));
    return made;
}

bool bit(const Number& number, std::size_t index) noexcept { return (number[index / 32] >> (index % 32) & 1) != 0; }

bool below(const Number& a, const Number& b) noexcept {
    for (std::size_t i = 8; i-- > 0;)
        if (a[i] != b[i]) return a[i] < b[i];
    return false;
}

// a - b modulo 2^256.
Number minus(const Number& a, const Number& b) noexcept {
    Number made{};
    std::int64_t borrow = 0;
    for (std::size_t i = 0; i < 8; ++i) {
        borrow += std::int64_t{a[i]} - std::int64_t{b[i]};
        made[i] = static_cast<std::uint32_t>(borrow & 0xffffffff);
        borrow >>= 32;
    }
    return made;
}

// Modulo p, from 16 words: 2^256 is 38 there, so the upper half counts 38 times. Then p is taken away while it fits.
Number reduced(const std::array<std::uint32_t, 16>& wide) noexcept {
    Number made{};
    std::uint64_t carry = 0;
    for (std::size_t i = 0; i < 8; ++i) {
        carry += wide[i] + std::uint64_t{38} * wide[i + 8];
        made[i] = static_cast<std::uint32_t>(carry & 0xffffffff);
        carry >>= 32;
    }
    while (carry != 0) {
        carry *= 38;
        for (std::size_t i = 0; i < 8; ++i) {
            carry += made[i];
            made[i] = static_cast<std::uint32_t>(carry & 0xffffffff);
            carry >>= 32;
        }
    }
    while (!below(made, kPrime)) made = minus(made, kPrime);
    return made;
}

Number times(const Number& a, const Number& b) noexcept {
    std::array<std::uint32_t, 16> wide{};
    for (std::size_t i = 0; i < 8; ++i) {
        std::uint64_t carry = 0;
        for (std::size_t k = 0; k < 8; ++k) {
            carry += wide[i + k] + std::uint64_t{a[i]} * b[k];
            wide[i + k] = static_cast<std::uint32_t>(carry & 0xffffffff);
            carry >>= 32;
        }
        wide[i + 8] = static_cast<std::uint32_t>(carry);
    }
    return reduced(wide);
}

Number plus(const Number& a, const Number& b) noexcept {
    std::array<std::uint32_t, 16> wide{};
    std::uint64_t carry = 0;
    for (std::size_t i = 0; i < 8; ++i) {
        carry += std::uint64_t{a[i]} + b[i];
        wide[i] = static_cast<std::uint32_t>(carry & 0xffffffff);
        carry >>= 32;
    }
    wide[8] = static_cast<std::uint32_t>(carry);
    return reduced(wide);
}

Number less(const Number& a, const Number& b) noexcept { return plus(a, minus(kPrime, b)); }

Number power(const Number& base, const Number& exponent) noexcept {
    Number made = small(1);
    for (std::size_t i = 256; i-- > 0;) {
        made = times(made, made);
        if (bit(exponent, i)) made = times(made, base);
    }
    return made;
}

// p - 2: a^(p - 2) is 1 / a. Source: Fermat's little theorem.
Number inverse(const Number& a) noexcept { return power(a, minus(kPrime, small(2))); }

// n / 2^shift, shift below 32.
Number shifted(const Number& n, unsigned shift) noexcept {
    Number made{};
    for (std::size_t i = 0; i < 8; ++i) made[i] = n[i] >> shift | (i < 7 ? n[i + 1] << (32 - shift) : 0);
    return made;
}

// Extended homogeneous coordinates: x = X / Z, y = Y / Z, x y = T / Z. RFC 8032, section 5.1.4.
struct Point {
    Number X, Y, Z, T;
};

// d = -121665 / 121666, of the curve -x² + y² = 1 + d x² y².
const Number& curve_d() {
    static const Number d = times(minus(kPrime, small(121665)), inverse(small(121666)));
    return d;
}

Point sum(const Point& P, const Point& Q) {
    const Number A = times(less(P.Y, P.X), less(Q.Y, Q.X));
    const Number B = times(plus(P.Y, P.X), plus(Q.Y, Q.X));
    const Number C = times(times(P.T, Q.T), plus(curve_d(), curve_d()));
    const Number D = times(P.Z, plus(Q.Z, Q.Z));
    const Number E = less(B, A), F = less(D, C), G = plus(D, C), H = plus(B, A);
    return {times(E, F), times(G, H), times(F, G), times(E, H)};
}

// n times P.
Point multiple(const Number& n, const Point& P) {
    Point made = {small(0), small(1), small(1), small(0)};
    for (std::size_t i = 256; i-- > 0;) {
        made = sum(made, made);
        if (bit(n, i)) made = sum(made, P);
    }
    return made;
}

// The point of this y whose x is odd or not; false if there is none. RFC 8032, section 5.1.3.
bool find_point(const Number& y, bool odd, Point& found) {
    if (!below(y, kPrime)) return false;
    const Number square = times(y, y);
    const Number u = less(square, small(1)), v = plus(times(curve_d(), square), small(1));
    const Number v3 = times(times(v, v), v), v7 = times(times(v3, v3), v);
    Number x = times(times(u, v3), power(times(u, v7), shifted(minus(kPrime, small(5)), 3)));  // (p - 5) / 8
    if (times(v, times(x, x)) != u) {
        x = times(x, power(small(2), shifted(minus(kPrime, small(1)), 2)));  // times the root of -1: 2^((p - 1) / 4)
        if (times(v, times(x, x)) != u) return false;
    }
    if (x == small(0) && odd) return false;
    if (bit(x, 0) != odd) x = minus(kPrime, x);
    found = {x, y, small(1), times(x, y)};
    return true;
}

bool decoded(const Octets32& octets, Point& found) {
    Number y = read(octets.data());
    const bool odd = bit(y, 255);
    y[7] &= 0x7fffffff;
    return find_point(y, odd, found);
}

// RFC 8032, section 5.1.2.
Octets32 encoded(const Point& P) {
    const Number one = inverse(P.Z), x = times(P.X, one), y = times(P.Y, one);
    Octets32 made{};
    for (std::size_t i = 0; i < 32; ++i) made[i] = static_cast<unsigned char>(y[i / 4] >> (8 * (i % 4)));
    made[31] = static_cast<unsigned char>(made[31] | (bit(x, 0) ? 0x80 : 0));
    return made;
}

// B, whose y is 4 / 5 and whose x is even.
const Point& base() {
    static const Point found = [] {
        Point made{};
        find_point(times(small(4), inverse(small(5))), false, made);
        return made;
    }();
    return found;
}

// 64 octets, least significant first, modulo L: bit by bit from the top.
Number modulo_order(const Octets64& octets) noexcept {
    Number made{};
    for (std::size_t i = 512; i-- > 0;) {
        for (std::size_t word = 7; word > 0; --word) made[word] = made[word] << 1 | made[word - 1] >> 31;
        made[0] = made[0] << 1 | (octets[i / 8] >> (i % 8) & 1u);
        if (!below(made, kOrder)) made = minus(made, kOrder);
    }
    return made;
}

}  // namespace

bool ed25519_verifies(const Octets32& public_key, const Octets64& signature, std::string_view message) {
    Point A{};
    const Number S = read(signature.data() + 32);
    if (!decoded(public_key, A) || !below(S, kOrder)) return false;
    std::string hashed(reinterpret_cast<const char*>(signature.data()), 32);
    hashed.append(reinterpret_cast<const char*>(public_key.data()), 32).append(message);
    const Number k = modulo_order(sha512(reinterpret_cast<const unsigned char*>(hashed.data()), hashed.size()));
    const Point minus_A = {minus(kPrime, A.X), A.Y, A.Z, minus(kPrime, A.T)};
    const Octets32 R = encoded(sum(multiple(S, base()), multiple(k, minus_A)));  // S B = R + k A
    return std::equal(R.begin(), R.end(), signature.begin());
}

}  // namespace edgekd::core
