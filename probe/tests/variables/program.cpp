#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

static volatile long sink;

#define NOINLINE __attribute__((noinline, noclone))

namespace shop {
enum class Kind : unsigned char { Small, Large = 200 };
struct Base {
    virtual ~Base() {}
    int id = 11;
    static int made;
};
int Base::made = 5;
struct Other {
    short tag = 3;
};
struct Item : Base, Other {
    double price = 9.75;
    Kind kind = Kind::Large;
    union {
        int whole;
        float part;
    };
    NOINLINE long cost(int count, const Item &other) const;
};
long Item::cost(int count, const Item &other) const {
    double sum = price * count + other.price;
    sink += (long)sum; /* stop cost */
    return (long)sum;
}
int stock = 99;
template <typename T, int N> struct Ring {
    T slots[N];
    unsigned head;
};
template <typename T> NOINLINE T largest(T a, T b, const Ring<T, 3> &ring) {
    T best = a < b ? b : a;
    sink += (long)best + (long)ring.slots[1]; /* stop largest */
    return best;
}
struct Heavy {
    std::vector<int> numbers;
    std::string name;
};
NOINLINE long heavy(Heavy by_value, std::unique_ptr<int> owned, int &&moved, int Base::*field, bool flag) {
    long total = (long)by_value.numbers.size() + *owned + moved + flag;
    sink += total + (field != nullptr); /* stop heavy */
    return total;
}
struct Animal {
    virtual ~Animal() {}
    int legs = 4;
};
struct Swimmer : virtual Animal {
    int depth = 30;
};
struct Flyer : virtual Animal {
    int height = 50;
};
struct Duck : Swimmer, Flyer {
    const char *name = "duck";
    int eggs = 3;
    NOINLINE long quack(const Swimmer &other, int &laid, const std::string &word) const;
};
long Duck::quack(const Swimmer &other, int &laid, const std::string &word) const {
    Duck copy = *this;
    copy.legs = other.depth;
    __asm__ volatile("" : : "r"(&copy) : "memory");
    long total = legs + other.legs + copy.height + laid + (long)word.size();
    sink += total + copy.legs; /* stop quack */
    return total + copy.eggs;
}
struct Empty {};
NOINLINE int empty(Empty, int after, std::nullptr_t) {
    sink += after; /* stop empty */
    return after;
}
} // namespace shop

NOINLINE long lambda(int start) {
    long captured = start * 3;
    auto add = [&captured, start](int by) {
        captured += by + start;
        sink += captured; /* stop add */
        return captured;
    };
    return add(start + 1);
}

int main(int argc, char **) {
    shop::Item one, two;
    one.whole = argc;
    two.part = 2.5f;
    two.price = 0.25;
    long total = one.cost(3, two);
    shop::Ring<double, 3> ring = {{1.5, 2.5, 3.5}, 1};
    shop::Ring<int, 3> numbers = {{-1, -2, -3}, 2};
    total += (long)shop::largest(2.5, 1.5, ring) + shop::largest(4, 5, numbers);
    total += shop::heavy({{1, 2, 3}, "a name"}, std::make_unique<int>(8), argc + 4, &shop::Base::id, true);
    total += shop::empty({}, 31, nullptr);
    total += lambda(argc);
    shop::Duck duck, other;
    duck.eggs = argc + 7;
    other.legs = 2;
    int laid = argc + 20;
    total += duck.quack(other, laid, "a word");
    std::printf("%ld\n", total & 1);
}
