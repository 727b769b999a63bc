// Where the work of an operation goes: to a stream, one launch after the other, or into a list of tasks that a single
// launch carries out in order (kernels/persistent). A task is what a launch would be: the same parameters for the same
// device functions, so the bits are the same.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace fth::gpu {

enum class Op : int32_t {
  norm, angles, rotate, write_kv, gather, scatter, add, round, quantise, gate, plan, leave, select, attend, product,
  by_depth, end
};

constexpr int64_t kTaskRows = 16;  // most rows that tasks are about

// Op::leave: the list ends there if no row is left.
struct Leave {
  const int32_t* live;
};

// How a task's items fall to the blocks of the launch.
enum class Share {
  row,     // item i is about row i and needs what tasks in front made of no other row: one block has a row in all of
           // them, and there is no boundary between such tasks
  all,     // a boundary in front, which all blocks have to reach before any goes on, and one behind
  beside,  // the same, but the task does not depend on the one in front
};

struct alignas(16) Task {
  static constexpr int kParams = 352;
  Op op;
  int32_t items;
  int32_t boundaries;       // in front of the task, since the start
  int32_t boundary_behind;  // whether
  uint32_t products_before; // items of products in front of the task: the block that goes on after them has the first
  int32_t next;             // in the list: the next product, or where it may end
  alignas(16) unsigned char params[kParams];
};

class TaskList {
 public:
  TaskList() = default;
  TaskList(Task* tasks, int32_t room) : tasks_(tasks), room_(room) {}

  template <class P>
  void add(Op op, Share share, int64_t items, const P& params) {
    static_assert(sizeof(P) <= Task::kParams && alignof(P) <= 16 && std::is_trivially_copyable_v<P>, "no room");
    if (count_ == room_) return;  // never: callers know how many there are at most
    if (count_ > 0 && share != Share::beside && !(share == Share::row && last_ == Share::row)) {
      tasks_[count_ - 1].boundary_behind = 1;
      boundaries_++;
    }
    last_ = share;
    Task& task = tasks_[count_++];
    task = {op, int32_t(items), boundaries_, 0, products_, 0, {}};
    memcpy(task.params, &params, sizeof(P));
    if (op == Op::product || op == Op::by_depth) products_ += uint32_t(items);
  }
  // Behind the last task.
  void end() {
    add(Op::end, Share::row, 0, int32_t(0));
    int32_t next = count_ - 1;
    for (int32_t i = count_ - 1; i >= 0; i--) {
      tasks_[i].next = next;
      const Op op = tasks_[i].op;
      if (op == Op::product || op == Op::by_depth || op == Op::leave) next = i;
    }
    first_ = next;
  }
  const Task* tasks() const { return tasks_; }
  int32_t count() const { return count_; }
  // The first product, or where the list may end.
  int32_t first() const { return first_; }

 private:
  Task* tasks_ = nullptr;
  int32_t room_ = 0, count_ = 0, boundaries_ = 0, first_ = 0;
  uint32_t products_ = 0;
  Share last_ = Share::row;
};

struct Queue {
  void* stream = nullptr;
  TaskList* tasks = nullptr;  // null: work is launched
};

}  // namespace fth::gpu
