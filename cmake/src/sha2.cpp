// SHA-256 and SHA-512 as FIPS 180-4 words them: sections 4.1.2 and 4.1.3 name the functions, 4.2 the constants, 6.2 and 6.4 the
// rounds. They are one algorithm, on words of 32 bits and of 64.
#include "sha2.hpp"

#include <cstdint>
#include <cstring>

namespace edgekd::core {
namespace {

// First 64 bits of the fractional parts of the cube roots of the first 80 primes; SHA-256 has the first 32 bits of the first 64.
constexpr std::array<std::uint64_t, 80> kRound = {
    0x428a2f98d728ae22, 0x7137449123ef65cd, 0xb5c0fbcfec4d3b2f, 0xe9b5dba58189dbbc,
    0x3956c25bf348b538, 0x59f111f1b605d019, 0x923f82a4af194f9b, 0xab1c5ed5da6d8118,
    0xd807aa98a3030242, 0x12835b0145706fbe, 0x243185be4ee4b28c, 0x550c7dc3d5ffb4e2,
    0x72be5d74f27b896f, 0x80deb1fe3b1696b1, 0x9bdc06a725c71235, 0xc19bf174cf692694,
    0xe49b69c19ef14ad2, 0xefbe4786384f25e3, 0x0fc19dc68b8cd5b5, 0x240ca1cc77ac9c65,
    0x2de92c6f592b0275, 0x4a7484aa6ea6e483, 0x5cb0a9dcbd41fbd4, 0x76f988da831153b5,
    0x983e5152ee66dfab, 0xa831c66d2db43210, 0xb00327c898fb213f, 0xbf597fc7beef0ee4,
    0xc6e00bf33da88fc2, 0xd5a79147930aa725, 0x06ca6351e003826f, 0x142929670a0e6e70,
    0x27b70a8546d22ffc, 0x2e1b21385c26c926, 0x4d2c6dfc5ac42aed, 0x53380d139d95b3df,
    0x650a73548baf63de, 0x766a0abb3c77b2a8, 0x81c2c92e47edaee6, 0x92722c851482353b,
    0xa2bfe8a14cf10364, 0xa81a664bbc423001, 0xc24b8b70d0f89791, 0xc76c51a30654be30,
    0xd192e819d6ef5218, 0xd69906245565a910, 0xf40e35855771202a, 0x106aa07032bbd1b8,
    0x19a4c116b8d2d0c8, 0x1e376c085141ab53, 0x2748774cdf8eeb99, 0x34b0bcb5e19b48a8,
    0x391c0cb3c5c95a63, 0x4ed8aa4ae3418acb, 0x5b9cca4f7763e373, 0x682e6ff3d6b2b8a3,
    0x748f82ee5defb2fc, 0x78a5636f43172f60, 0x84c87814a1f0ab72, 0x8cc702081a6439ec,
    0x90befffa23631e28, 0xa4506cebde82bde9, 0xbef9a3f7b2c67915, 0xc67178f2e372532b,
    0xca273eceea26619c, 0xd186b8c721c0c207, 0xeada7dd6cde0eb1e, 0xf57d4f7fee6ed178,
    0x06f067aa72176fba, 0x0a637dc5a2c898a6, 0x113f9804bef90dae, 0x1b710b35131c471b,
    0x28db77f523047d84, 0x32caab7b40c72493, 0x3c9ebe0a15c9bebc, 0x431d67c49c100d4c,
    0x4cc5d4becb3e42b6, 0x597f299cfc657e2a, 0x5fcb6fab3ad6faec, 0x6c44198c4a475817};

// And of the square roots of the first 8.
constexpr std::array<std::uint64_t, 8> kInitial = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};

// How far each function turns a word; the last of the small ones shifts.
template <class Word>
struct Turns;
template <>
struct Turns<std::uint32_t> {
    static constexpr std::size_t kRounds = 64;
    static constexpr int Sum0[] = {2, 13, 22}, Sum1[] = {6, 11, 25}, s0[] = {7, 18, 3}, s1[] = {17, 19, 10};
};
template <>
struct Turns<std::uint64_t> {
    static constexpr std::size_t kRounds = 80;
    static constexpr int Sum0[] = {28, 34, 39}, Sum1[] = {14, 18, 41}, s0[] = {1, 8, 7}, s1[] = {19, 61, 6};
};

template <class Word>
constexpr int kBits = 8 * static_cast<int>(sizeof(Word));

// The first bits of a constant.
template <class Word>
constexpr Word constant(std::uint64_t value) noexcept {
    return static_cast<Word>(value >> (64 - kBits<Word>));
}

template <class Word>
constexpr Word rotr(Word x, int n) noexcept {
    return (x >> n) | (x << (kBits<Word> - n));
}
template <class Word>
constexpr Word sum(Word x, const int (&turns)[3]) noexcept {
    return rotr(x, turns[0]) ^ rotr(x, turns[1]) ^ rotr(x, turns[2]);
}
template <class Word>
constexpr Word small(Word x, const int (&turns)[3]) noexcept {
    return rotr(x, turns[0]) ^ rotr(x, turns[1]) ^ (x >> turns[2]);
}

// One block of 16 words into the hash value H.
template <class Word>
void compress(std::array<Word, 8>& H, const unsigned char* block) noexcept {
    using T = Turns<Word>;
    std::array<Word, T::kRounds> W{};
    for (std::size_t t = 0; t < 16; ++t)
        for (std::size_t i = 0; i < sizeof(Word); ++i) W[t] = W[t] << 8 | block[sizeof(Word) * t + i];
    for (std::size_t t = 16; t < T::kRounds; ++t) W[t] = small(W[t - 2], T::s1) + W[t - 7] + small(W[t - 15], T::s0) + W[t - 16];
    auto [a, b, c, d, e, f, g, h] = H;
    for (std::size_t t = 0; t < T::kRounds; ++t) {
        const Word t1 = h + sum(e, T::Sum1) + ((e & f) ^ (~e & g)) + constant<Word>(kRound[t]) + W[t];
        const Word t2 = sum(a, T::Sum0) + ((a & b) ^ (a & c) ^ (b & c));
        h = g;
        g = f;
        f = e;
        e = d + t1;
        d = c;
        c = b;
        b = a;
        a = t1 + t2;
    }
    const std::array<Word, 8> step = {a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) H[i] += step[i];
}

// Sections 5.1 and 5.2: whole blocks, then the last one or two: what is left, a one bit, zeros, and the length in bits.
template <class Word>
std::array<unsigned char, 8 * sizeof(Word)> digest(const unsigned char* data, std::size_t size) {
    constexpr std::size_t kBlock = 16 * sizeof(Word), kLength = 2 * sizeof(Word);
    std::array<Word, 8> H;
    for (std::size_t i = 0; i < 8; ++i) H[i] = constant<Word>(kInitial[i]);
    const std::size_t whole = size / kBlock, left = size % kBlock;
    for (std::size_t i = 0; i < whole; ++i) compress(H, data + kBlock * i);
    std::array<unsigned char, 2 * kBlock> tail{};
    if (left != 0) std::memcpy(tail.data(), data + kBlock * whole, left);
    tail[left] = 0x80;
    const std::size_t end = left < kBlock - kLength ? kBlock : 2 * kBlock;
    const std::uint64_t bits = std::uint64_t{size} * 8;
    for (std::size_t i = 0; i < 8; ++i) tail[end - 1 - i] = static_cast<unsigned char>(bits >> (8 * i));
    for (std::size_t at = 0; at < end; at += kBlock) compress(H, tail.data() + at);
    std::array<unsigned char, 8 * sizeof(Word)> found{};
    for (std::size_t i = 0; i < found.size(); ++i)
        found[i] = static_cast<unsigned char>(H[i / sizeof(Word)] >> (8 * (sizeof(Word) - 1 - i % sizeof(Word))));
    return found;
}

}  // namespace

std::string sha256(const unsigned char* data, std::size_t size) {
    std::string found;
    for (const unsigned char byte : digest<std::uint32_t>(data, size)) {
        found.push_back("0123456789abcdef"[byte >> 4]);
        found.push_back("0123456789abcdef"[byte & 15]);
    }
    return found;
}

Octets64 sha512(const unsigned char* data, std::size_t size) { return digest<std::uint64_t>(data, size); }

}  // namespace edgekd::core
