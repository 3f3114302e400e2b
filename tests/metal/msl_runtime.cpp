// The machine behind msl_cpu.h: fibers, rendezvous, guarded buffers, and the main program.
//
//   PROGRAM        then lines on stdin: KERNEL DIR GX GY GZ TX TY TZ
//                  (a library with a `shim_kernel`; grid and threadgroup in threads, as MLX takes
//                  them)
//
// Buffer i is read from DIR/i. Each line is run by two children, and answered with the exit
// status of both. Child 0 runs fibers and groups upwards with buffers against their upper guard
// page, child 1 downwards against the lower one: a kernel whose result depends on the order has a
// race. Outputs are written to DIR/i.ORDER, what is said of a fault to DIR/said.ORDER. Exit 3:
// divergence; 4: out of bounds.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "msl_cpu.h"
#undef thread

#if defined(__x86_64__)
extern "C" void shim_switch(void** save, void* load);
asm(R"(.text
.globl shim_switch
shim_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi); movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
struct Context {
  void* sp;
  void start(char* stack, size_t size, void (*entry)()) {
    void** top = (void**)((uintptr_t)(stack + size) & ~uintptr_t(63));
    *--top = nullptr;         // entry never returns; keeps the ABI's alignment
    *--top = (void*)entry;
    sp = top - 6;             // six callee-saved registers, whatever they hold
  }
};
static void switch_to(Context& from, Context& to) { shim_switch(&from.sp, to.sp); }
#else
#include <ucontext.h>
struct Context {
  ucontext_t at;
  void start(char* stack, size_t size, void (*entry)()) {
    getcontext(&at);
    at.uc_stack.ss_sp = stack;
    at.uc_stack.ss_size = size;
    at.uc_link = nullptr;
    makecontext(&at, entry, 0);
  }
};
static void switch_to(Context& from, Context& to) { swapcontext(&from.at, &to.at); }
#endif

static const shim::Kernel* kernel;

namespace shim {
uint3 group, groups, group_size, grid;

enum State { kReady, kSimdgroup, kThreadgroup, kDone };
struct Fiber {
  Context context;
  State state;
  const char* what;
  int line;
};
constexpr int kMaxThreads = 1024;
constexpr size_t kStack = 1 << 16;
static Fiber fibers[kMaxThreads];
static Context scheduler;
static int threads, current, order;
static uint64_t words[kMaxThreads / kLanes][2][kLanes];
static int parity[kMaxThreads];
static void* pointers[64];

uint self() { return current; }

// Leaves a fiber for the next ready one of its simdgroup, else for the scheduler: as if the
// scheduler had the turn between them, at half the switches.
static void leave(Fiber& f) {
  int first = current / kLanes * kLanes, end = first + kLanes < threads ? first + kLanes : threads;
  int step = order ? -1 : 1;
  for (int t = current + step; first <= t && t < end; t += step)
    if (fibers[t].state == kReady) {
      current = t;
      return switch_to(f.context, fibers[t].context);
    }
  switch_to(f.context, scheduler);
}
static void wait(State state, const char* what, int line) {
  Fiber& f = fibers[current];
  f.state = state, f.what = what, f.line = line;
  leave(f);
}
uint64_t* meet_with(uint64_t word, const char* what, int line) {
  uint64_t* all = words[current / kLanes][parity[current] ^= 1];
  all[current % kLanes] = word;
  wait(kSimdgroup, what, line);
  return all;
}
void meet_simdgroup(const char* what, int line) { wait(kSimdgroup, what, line); }
void meet_threadgroup(int line) { wait(kThreadgroup, "threadgroup_barrier", line); }

static void fiber_main() {
  kernel->body(pointers);
  fibers[current].state = kDone;
  leave(fibers[current]);
  abort();
}

[[noreturn]] static void diverged(int a, int b) {
  auto where = [](int t) {
    const Fiber& f = fibers[t];
    printf("  thread %d: ", t);
    if (f.state == kDone) printf("has ended\n");
    else printf("%s at line %d\n", f.what, f.line);
  };
  printf("divergence in threadgroup (%u, %u, %u):\n", group.x, group.y, group.z);
  where(a), where(b);
  exit(3);
}

// Releases threads [first, first + n) if all wait in `state`; false if they don't.
static bool release(int first, int n, State state) {
  for (int t = first; t < first + n; t++)
    if (fibers[t].state != state) return false;
  for (int t = first; t < first + n; t++) {
    const Fiber &f = fibers[t], &leader = fibers[first];
    if (f.line != leader.line || f.what != leader.what) diverged(first, t);
  }
  for (int t = first; t < first + n; t++) fibers[t].state = kReady;
  return true;
}

static void report_deadlock() {
  for (int t = 0; t < threads; t++)
    for (int u = t + 1; u < threads; u++)
      if (fibers[t].state != fibers[u].state) diverged(t, u);
  diverged(0, threads - 1);
}

static bool all_done() {
  for (int t = 0; t < threads; t++)
    if (fibers[t].state != kDone) return false;
  return true;
}

static int lanes_of(int simdgroup) {
  int rest = threads - simdgroup * kLanes;
  return rest < kLanes ? rest : kLanes;
}

static bool release_simdgroup(int simdgroup) {
  return release(simdgroup * kLanes, lanes_of(simdgroup), kSimdgroup);
}

// Runs the ready threads of a simdgroup to their next rendezvous; downwards, as far as it gets
// without the others, so that what a barrier should have kept apart meets.
static void run_simdgroup(int simdgroup) {
  int n = lanes_of(simdgroup);
  do {
    for (int i = 0; i < n; i++) {
      current = simdgroup * kLanes + (order ? n - 1 - i : i);
      if (fibers[current].state == kReady) switch_to(scheduler, fibers[current].context);
    }
  } while (order && release_simdgroup(simdgroup));
}

static void run_group() {
  int simdgroups = (threads + kLanes - 1) / kLanes;
  if (kernel->threadgroup_start)
    memset(kernel->threadgroup_start, 0xff, kernel->threadgroup_end - kernel->threadgroup_start);
  static char* stacks = (char*)mmap(nullptr, kStack * kMaxThreads, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  for (int t = 0; t < threads; t++) {
    fibers[t].state = kReady;
    fibers[t].context.start(stacks + kStack * t, kStack, fiber_main);
  }
  while (!all_done()) {
    for (int i = 0; i < simdgroups; i++) run_simdgroup(order ? simdgroups - 1 - i : i);
    if (all_done()) return;
    bool moved = release(0, threads, kThreadgroup);
    for (int i = 0; i < simdgroups; i++) moved |= release_simdgroup(i);
    if (!moved) report_deadlock();
  }
}

struct Buffer {
  char *guard, *data, *end;  // guard page, contents, end of the upper guard page
  size_t bytes, room;
};
static Buffer buffers[64];
static long page;

static size_t file_size(const char* path) {
  struct stat s;
  if (stat(path, &s)) perror(path), exit(2);
  return s.st_size;
}

static void load(Buffer& b, const char* path, bool output) {
  b.bytes = file_size(path);
  size_t aligned = (b.bytes + 15) / 16 * 16;
  b.room = (aligned + page - 1) / page * page;
  if (!b.room) b.room = page;
  b.guard = (char*)mmap(nullptr, b.room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  b.end = b.guard + b.room + 2 * page;
  mprotect(b.guard + page, b.room, PROT_READ | PROT_WRITE);
  b.data = b.guard + page + (order ? 0 : b.room - aligned);
  memset(b.guard + page, 0xff, b.room);
  int file = open(path, O_RDONLY);
  for (size_t at = 0; !output && at < b.bytes;) {
    ssize_t n = read(file, b.data + at, b.bytes - at);
    if (n <= 0) perror(path), exit(2);
    at += n;
  }
  close(file);
  if (!output) mprotect(b.guard + page, b.room, PROT_READ);
}

static void save(const Buffer& b, const char* path, const char* name) {
  for (char* p = b.guard + page; p < b.guard + page + b.room; p++)
    if ((p < b.data || p >= b.data + b.bytes) && *p != char(0xff)) {
      printf("out of bounds: %s written at byte %ld of %zu\n", name, long(p - b.data), b.bytes);
      exit(4);
    }
  FILE* file = fopen(path, "wb");
  if (fwrite(b.data, 1, b.bytes, file) != b.bytes || fclose(file)) perror(path), exit(2);
}

static void fault(int, siginfo_t* info, void*) {
  char* at = (char*)info->si_addr;
  for (int i = 0; i < kernel->buffers; i++)
    if (at >= buffers[i].guard && at < buffers[i].end) {
      long offset = at - buffers[i].data;
      bool inside = offset >= 0 && size_t(offset) < buffers[i].bytes;
      printf("%s: %s at byte %ld of %zu, thread %d of threadgroup (%u, %u, %u)\n",
             inside ? "write to an input" : "out of bounds", kernel->names[i], offset,
             buffers[i].bytes, current, group.x, group.y, group.z);
      fflush(stdout);
      _exit(4);
    }
  printf("segmentation fault outside of all buffers\n");
  fflush(stdout);
  _exit(4);
}

static void catch_faults() {
  static char stack[1 << 16];
  stack_t alternate = {stack, 0, sizeof stack};
  sigaltstack(&alternate, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

static uint least(uint a, uint b) { return a < b ? a : b; }

static void run_grid() {
  // As MLX dispatches: no more threads in a group than in the grid, groups rounded up.
  group_size = {least(group_size.x, grid.x), least(group_size.y, grid.y),
                least(group_size.z, grid.z)};
  groups = {grid.x / group_size.x, grid.y / group_size.y, grid.z / group_size.z};
  if (groups.x * group_size.x != grid.x || groups.y * group_size.y != grid.y ||
      groups.z * group_size.z != grid.z)
    printf("the grid must be whole threadgroups\n"), exit(2);
  threads = group_size.x * group_size.y * group_size.z;
  if (threads > kMaxThreads) printf("more than 1024 threads in a threadgroup\n"), exit(2);
  uint n = groups.x * groups.y * groups.z;
  for (uint i = 0; i < n; i++) {
    uint g = order ? n - 1 - i : i;
    group = {g % groups.x, g / groups.x % groups.y, g / (groups.x * groups.y)};
    run_group();
  }
}
}  // namespace shim

// Runs one launch in the order `order`, and ends the process.
[[noreturn]] static void run_launch(const char* folder) {
  using namespace shim;
  char path[4096];
  snprintf(path, sizeof path, "%s/said.%d", folder, order);
  if (!freopen(path, "w", stdout)) perror(path), _exit(2);
  dup2(STDOUT_FILENO, STDERR_FILENO);
  alarm(120);
  for (int i = 0; i < kernel->buffers; i++) {
    snprintf(path, sizeof path, "%s/%d", folder, i);
    load(buffers[i], path, i >= kernel->buffers - kernel->outputs);
    pointers[i] = buffers[i].data;
  }
  catch_faults();
  run_grid();
  for (int i = kernel->buffers - kernel->outputs; i < kernel->buffers; i++) {
    snprintf(path, sizeof path, "%s/%d.%d", folder, i, order);
    save(buffers[i], path, kernel->names[i]);
  }
  exit(0);
}

int main() {
  using namespace shim;
  page = sysconf(_SC_PAGESIZE);
  char library[4000], folder[4000];
  while (scanf("%3999s %3999s %u %u %u %u %u %u", library, folder, &grid.x, &grid.y, &grid.z,
               &group_size.x, &group_size.y, &group_size.z) == 8) {
    void* opened = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    kernel = opened ? (const Kernel*)dlsym(opened, "shim_kernel") : nullptr;
    if (!kernel) fprintf(stderr, "%s\n", dlerror()), exit(2);
    pid_t children[2];
    for (order = 0; order < 2; order++)
      if (!(children[order] = fork())) run_launch(folder);
    int status[2];
    for (int i = 0; i < 2; i++) waitpid(children[i], &status[i], 0);
    dlclose(opened);
    printf("%d %d\n", status[0], status[1]);
    fflush(stdout);
  }
}
