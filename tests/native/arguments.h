// What every function owes its arguments, from one description of a call: buffers of exactly the stated size are
// enough, whichever side an inaccessible page is on, and inputs are never written; whatever is null, misaligned,
// overlapping or out of range is refused with a sentence that begins with the argument's name, and then nothing has
// changed.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "context.h"
#include "test.h"

namespace test {

class Arguments {
  enum Role { kShape, kInput, kOutput };

  struct Buffer {
    // Room on both sides, so that a buffer laid over the end of another one meets no third.
    static constexpr int64_t kRoom = 4 << 20;
    const char* name;
    Role role;
    bool required;
    int64_t bytes, alignment;
    char *map, *home, *now;  // where its contents are kept, and what the call gets
    std::vector<char> before;

    Buffer(const char* n, Role r, bool must, int64_t size, int64_t align)
        : name(n), role(r), required(must), bytes(size), alignment(align) {
      map = static_cast<char*>(mmap(nullptr, size_t(bytes + 2 * kRoom), PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      lend(map, size_t(bytes + 2 * kRoom));
      now = home = map + kRoom;
    }
    ~Buffer() {
      take_back(map);
      munmap(map, size_t(bytes + 2 * kRoom));
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    bool same(const char* contents, const std::vector<char>& want) const {
      return bytes == 0 || memcmp(contents, want.data(), size_t(bytes)) == 0;
    }
    // The last address below `end` at which this buffer may begin.
    char* below(char* end) const { return end - 1 - (reinterpret_cast<uintptr_t>(end) - 1) % uintptr_t(alignment); }
    char* from(char* begin) const { return below(begin + alignment); }
  };

 public:
  // An argument; [] and -> reach its contents, which must be set before the first expectation.
  template <class T>
  class Array {
   public:
    explicit Array(Buffer* buffer) : buffer_(buffer) {}
    T* now() const { return reinterpret_cast<T*>(buffer_->now); }
    operator T*() const { return now(); }
    T* get() const { return reinterpret_cast<T*>(buffer_->home); }
    T* operator->() const { return get(); }
    T& operator[](int64_t i) const { return get()[i]; }
    int64_t size() const { return buffer_->bytes / int64_t(sizeof(T)); }

   private:
    friend class Arguments;
    Buffer* buffer_;
  };

  template <class T>
  Array<T> shape(const T& value, const char* name = "shape") {
    const Array<T> s(add(name, kShape, true, sizeof(T), alignof(T)));
    s[0] = value;
    return s;
  }
  template <class T>
  Array<T> input(const char* name, int64_t count) {
    return Array<T>(add(name, kInput, true, count * int64_t(sizeof(T)), alignof(T)));
  }
  // May be null.
  template <class T>
  Array<T> optional(const char* name, int64_t count) {
    return Array<T>(add(name, kInput, false, count * int64_t(sizeof(T)), alignof(T)));
  }
  template <class T>
  Array<T> output(const char* name, int64_t count) {
    return Array<T>(add(name, kOutput, true, count * int64_t(sizeof(T)), alignof(T)));
  }
  template <class T>
  Array<T> optional_output(const char* name, int64_t count) {
    return Array<T>(add(name, kOutput, false, count * int64_t(sizeof(T)), alignof(T)));
  }
  // Packed weights, pools, sources: bytes that are finite numbers both as f32 and as bf16.
  Array<char> packed(const char* name, int64_t bytes, int64_t alignment, bool required = true) {
    return finite(Array<char>(add(name, kInput, required, bytes, alignment)));
  }
  Array<char> packed_output(const char* name, int64_t bytes, int64_t alignment) {
    return finite(Array<char>(add(name, kOutput, true, bytes, alignment)));
  }

  test::Context ctx;
  test::Random random{7};
  std::function<fth_status(fth_context*)> call;

  // Exact sizes are enough, on every instruction set, and give the same bits as room to spare.
  void guards() {
    snapshot();
    for (int32_t isa = 0; isa <= test::last_isa(); isa++)
      for (int32_t bf16_dot : {1, 0}) {
        test::Context guarded(isa);
        fth_context* inner = guarded;
        if (bf16_dot && !inner->info.bf16_dot) continue;
        inner->info.bf16_dot = bf16_dot;
        const std::vector<std::vector<char>> want = results(guarded);
        for (bool head : {false, true}) {
          std::vector<std::unique_ptr<Guarded<char>>> copies;
          for (auto& b : buffers_) {
            copies.emplace_back(new Guarded<char>(b->bytes, head));
            if (b->bytes > 0) copies.back()->copy_from(b->home);
            if (b->role != kOutput) copies.back()->protect();
            b->now = copies.back()->get();
          }
          EXPECT_OK(guarded, call(guarded));
          for (size_t i = 0; i < buffers_.size(); i++) {
            Buffer& b = *buffers_[i];
            b.now = b.home;
            EXPECT(b.role != kOutput || b.same(copies[i]->get(), want[i]), "%s, isa %d, guard %s", b.name, isa,
                   head ? "before" : "behind");
          }
        }
      }
  }

  // Everything that does not depend on what the function computes.
  void refusals() {
    snapshot();
    const std::vector<std::vector<char>> want = results(ctx);
    fth_context* inner = ctx;
    EXPECT(call(nullptr) == FTH_INVALID_ARGUMENT, "no context");
    snprintf(inner->message, sizeof inner->message, "kept");
    inner->busy = true;
    EXPECT(call(ctx) == FTH_BUSY && strcmp(ctx.message(), "kept") == 0, "%s", ctx.message());
    inner->busy = false;
    expect_unchanged("a busy context");
    for (auto& b : buffers_) {
      char sentence[160];
      if (b->bytes == 0) continue;  // no argument of this call
      if (b->required) {
        snprintf(sentence, sizeof sentence, "%s must not be null", b->name);
        at(*b, nullptr, sentence);
      } else {
        b->now = nullptr;
        EXPECT_OK(ctx, call(ctx));
        b->now = b->home;
        restore();
      }
      snprintf(sentence, sizeof sentence, "%s must be aligned to %d bytes", b->name, int(b->alignment));
      if (b->alignment > 1) at(*b, b->home + 1, sentence);
    }
    for (size_t o = 0; o < buffers_.size(); o++) {
      if (buffers_[o]->role != kOutput) continue;
      for (size_t i = 0; i < buffers_.size(); i++)
        if (buffers_[i]->role == kInput || (buffers_[i]->role == kOutput && i < o)) overlaps(*buffers_[i], o, want);
    }
  }

  // `input` may be `output` itself: the result is the same, but one may not lie across the other.
  template <class T, class U>
  void in_place(const Array<T>& input, const Array<U>& output) {
    snapshot();
    const Buffer &from = *input.buffer_, &to = *output.buffer_;
    const std::vector<std::vector<char>> want = results(ctx);
    memcpy(to.home, from.home, size_t(from.bytes));
    input.buffer_->now = to.home;
    EXPECT_OK(ctx, call(ctx));
    for (size_t i = 0; i < buffers_.size(); i++)
      if (buffers_[i].get() == &to) EXPECT(to.same(to.home, want[i]), "%s in place", to.name);
    input.buffer_->now = from.home;
    restore();
  }

  // No rows: nothing is read or written, and every buffer may be null.
  void nothing(int64_t& count) {
    snapshot();
    const int64_t before = count;
    count = 0;
    EXPECT_OK(ctx, call(ctx));
    expect_unchanged("no rows");
    for (auto& b : buffers_)
      if (b->role != kShape) b->now = nullptr;
    EXPECT_OK(ctx, call(ctx));
    for (auto& b : buffers_) b->now = b->home;
    count = before;
  }

  // With `value` at `where` the call is refused by this sentence, of which the beginning is given.
  template <class T, class V>
  void refused(const char* sentence, T& where, V value) {
    snapshot();
    const T before = where;
    where = T(value);
    EXPECT_REFUSED_AS(ctx, sentence, call(ctx));
    where = before;
    expect_unchanged(sentence);
  }
  // Both sides of a range.
  template <class T>
  void range(const char* name, T& where, int64_t least, int64_t most) {
    char sentence[160];
    const int64_t bad[] = {least - 1, most + 1};
    for (int64_t value : bad) {
      if (int64_t(T(value)) != value) continue;
      snprintf(sentence, sizeof sentence, "%s must be in %lld..%lld, got %lld", name, (long long)least,
               (long long)most, (long long)value);
      refused(sentence, where, value);
    }
  }
  void weight_type(const char* name, int32_t& where) {
    char sentence[160];
    for (int32_t value : {-1, int32_t(FTH_F16), FTH_F8_E4M3 + 1}) {
      snprintf(sentence, sizeof sentence,
               "%s must be FTH_F32, FTH_BF16, FTH_I8, FTH_Q8_0, FTH_Q4_0 or FTH_F8_E4M3, got %d", name, value);
      refused(sentence, where, value);
    }
  }
  void finite(const char* name, float& where) { numbers(name, where, "must be a finite number, got", false); }
  void not_negative(const char* name, float& where) {
    numbers(name, where, "must be a finite number >= 0, got", true);
  }
  void counts(int64_t& count, int64_t most = int64_t(1) << 30) { range("count", count, 0, most); }

 private:
  Buffer* add(const char* name, Role role, bool required, int64_t bytes, int64_t alignment) {
    buffers_.emplace_back(new Buffer(name, role, required, bytes, alignment));
    return buffers_.back().get();
  }
  Array<char> finite(const Array<char>& array) {
    for (int64_t i = 0; i + 1 < array.size(); i += 2) {
      const uint16_t bits = uint16_t(0x3c00 + random.below(0x180)) | uint16_t(random.below(2) << 15);
      memcpy(array.get() + i, &bits, 2);
    }
    return array;
  }
  void numbers(const char* name, float& where, const char* must, bool negative) {
    char sentence[160];
    snprintf(sentence, sizeof sentence, "%s %s", name, must);
    for (float value : {NAN, INFINITY, -INFINITY}) refused(sentence, where, value);
    if (negative) refused(sentence, where, -1.f);
  }

  void snapshot() {
    for (auto& b : buffers_) b->before.assign(b->home, b->home + b->bytes);
  }
  void restore() {
    for (auto& b : buffers_)
      if (b->bytes > 0) memcpy(b->home, b->before.data(), size_t(b->bytes));
  }
  void expect_unchanged(const char* what) {
    for (auto& b : buffers_) EXPECT(b->same(b->home, b->before), "%s has changed after: %s", b->name, what);
    restore();
  }
  // Contents of all buffers after a call that works.
  std::vector<std::vector<char>> results(test::Context& on) {
    std::vector<std::vector<char>> after;
    EXPECT_OK(on, call(on));
    EXPECT(on.message()[0] == 0, "%s", on.message());
    for (auto& b : buffers_) after.emplace_back(b->home, b->home + b->bytes);
    restore();
    return after;
  }
  void at(Buffer& b, char* address, const char* sentence) {
    b.now = address;
    EXPECT_REFUSED_AS(ctx, sentence, call(ctx));
    b.now = b.home;
    expect_unchanged(sentence);
  }

  // One buffer over the last bytes of the other, and right behind it.
  void overlaps(Buffer& other, size_t o, const std::vector<std::vector<char>>& want) {
    Buffer& out = *buffers_[o];
    if (out.bytes == 0 || other.bytes == 0) return;
    for (bool other_first : {true, false}) {
      Buffer &first = other_first ? other : out, &second = other_first ? out : other;
      second.now = second.below(first.home + first.bytes);
      const fth_status status = call(ctx);
      char sentence[160], reverse[160];
      snprintf(sentence, sizeof sentence, "%s and %s must not overlap", other.name, out.name);
      snprintf(reverse, sizeof reverse, "%s and %s must not overlap", out.name, other.name);
      EXPECT(status == FTH_INVALID_ARGUMENT &&
                 (strcmp(ctx.message(), sentence) == 0 || strcmp(ctx.message(), reverse) == 0),
             "%s, got %d: %s", sentence, status, ctx.message());
      expect_unchanged(sentence);

      second.now = second.from(first.home + first.bytes);
      memcpy(second.now, second.home, size_t(second.bytes));
      EXPECT_OK(ctx, call(ctx));
      EXPECT(out.same(out.now, want[o]), "%s behind %s", second.name, first.name);
      memset(second.now, 0, size_t(second.bytes));
      second.now = second.home;
      restore();
    }
  }

  std::vector<std::unique_ptr<Buffer>> buffers_;
};

}  // namespace test
