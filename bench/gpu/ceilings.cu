// The limits of a device that kernels are held against: copying and reading memory, reading the second-level cache,
// handing a counter from block to block, launches alone, in a graph, and in a graph's loop. Prints lines and, to the
// file named by the first argument, JSON.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "cuda/grid.h"

using namespace fth::gpu;

namespace {

void need(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "error: %s: %s\n", what, cudaGetErrorString(error));
  exit(1);
}

struct Result {
  const char* name;
  double value;
};
std::vector<Result> results;
void report(const char* name, double value, const char* unit, double scale) {
  results.push_back({name, value});
  printf("%-44s %10.2f %s\n", name, value * scale, unit);
}

cudaStream_t stream;

// Median seconds of one of `count` runs of what `enqueue` enqueues.
double seconds(const std::function<void()>& enqueue, int repeats = 25) {
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = -3; i < repeats; i++) {
    cudaEventRecord(begin, stream);
    enqueue();
    cudaEventRecord(end, stream);
    need(cudaEventSynchronize(end), "a measurement");
    float ms;
    cudaEventElapsedTime(&ms, begin, end);
    if (i >= 0) times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[repeats / 2] * 1e-3;
}

// ---- memory --------------------------------------------------------------------------------------------------------

constexpr int kThreads = 512, kUnroll = 4;

__global__ void fill(uint4* to, size_t count, unsigned seed) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count; i += size_t(gridDim.x) * blockDim.x) {
    const unsigned x = unsigned(i * 2654435761u) ^ seed;
    to[i] = {x, x * 1664525u, x * 22695477u, x * 134775813u};
  }
}
__global__ void copy_all(uint4* to, const uint4* from, size_t count) {
  const size_t stride = size_t(gridDim.x) * blockDim.x;
  size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x;
  for (; i + (kUnroll - 1) * stride < count; i += kUnroll * stride) {
    uint4 v[kUnroll];
    for (int k = 0; k < kUnroll; k++) v[k] = __ldcs(from + i + k * stride);
    for (int k = 0; k < kUnroll; k++) __stcs(to + i + k * stride, v[k]);
  }
  for (; i < count; i += stride) to[i] = from[i];
}
// Reads `count` sixteen-byte pieces `passes` times, past the first-level cache; block b the same slice in each pass, or
// another one.
__global__ void read_all(const uint4* from, size_t count, int passes, bool rotate, unsigned* out) {
  const size_t slice = count / gridDim.x;
  unsigned sum = 0;
  for (int pass = 0; pass < passes; pass++) {
    const uint4* mine = from + slice * ((blockIdx.x + (rotate ? pass * 29 : 0)) % gridDim.x);
    size_t i = threadIdx.x;
    for (; i + (kUnroll - 1) * blockDim.x < slice; i += kUnroll * blockDim.x) {
      uint4 v[kUnroll];
      for (int k = 0; k < kUnroll; k++) v[k] = __ldcg(mine + i + k * blockDim.x);
      for (int k = 0; k < kUnroll; k++) sum += v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    for (; i < slice; i += blockDim.x) sum += __ldcg(mine + i).x;
  }
  if (sum == 0x12345678) *out = sum;
}

void memory(int blocks) {
  const size_t bytes = size_t(2) << 30, count = bytes / 16;
  uint4 *from, *to;
  unsigned* out;
  need(cudaMalloc(&from, bytes), "memory");
  need(cudaMalloc(&to, bytes), "memory");
  need(cudaMalloc(&out, 4), "memory");
  fill<<<blocks * 4, kThreads, 0, stream>>>(from, count, 7);
  const double copied = seconds([&] { copy_all<<<blocks * 4, kThreads, 0, stream>>>(to, from, count); });
  const double runtime = seconds([&] { cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream); });
  report("kernel_copy_bytes_per_second", 2 * bytes / copied, "TB/s", 1e-12);
  report("runtime_copy_bytes_per_second", 2 * bytes / runtime, "TB/s", 1e-12);
  report("copy_bytes_per_second", 2 * bytes / std::min(copied, runtime), "TB/s", 1e-12);
  const double read = seconds([&] { read_all<<<blocks * 4, kThreads, 0, stream>>>(from, count, 1, false, out); });
  report("read_bytes_per_second", bytes / read, "TB/s", 1e-12);
  static char names[2][5][64];
  for (int rotate = 0; rotate < 2; rotate++)
    for (int i = 0; i < 5; i++) {
      const int mb = 10 * (i + 1), few = 2, many = 22;
      const size_t pieces = size_t(mb) * 1000000 / 16;
      const auto time = [&](int passes) {
        return seconds([&] { read_all<<<blocks, 1024, 0, stream>>>(from, pieces, passes, rotate, out); });
      };
      snprintf(names[rotate][i], sizeof names[rotate][i], "cache_%d_mb_%s_bytes_per_second", mb,
               rotate ? "rotating" : "fixed");
      report(names[rotate][i], double(many - few) * mb * 1e6 / (time(many) - time(few)), "TB/s", 1e-12);
    }
  cudaFree(from);
  cudaFree(to);
  cudaFree(out);
}

// ---- blocks that wait for one another ------------------------------------------------------------------------------

// Two blocks pass a number to and fro: each round two hand-overs.
__global__ void ping_pong(unsigned* counters, int rounds) {
  if (threadIdx.x != 0) return;
  for (int i = 0; i < rounds; i++) {
    if (blockIdx.x == 0) {
      count_up(counters);
      wait_for(counters + 32, i + 1);
    } else if (blockIdx.x == gridDim.x - 1) {
      wait_for(counters, i + 1);
      count_up(counters + 32);
    }
  }
}
__global__ void barriers(unsigned* counters, int rounds) {
  for (int i = 0; i < rounds; i++) grid_barrier(counters, i);
}

void waiting(int blocks) {
  unsigned* counters;
  need(cudaMalloc(&counters, 256), "memory");
  const auto time = [&](void (*kernel)(unsigned*, int), int rounds) {
    return seconds([&, kernel, rounds] {
      cudaMemsetAsync(counters, 0, 256, stream);
      launch(kernel, {dim3(blocks), dim3(128), 0, true}, stream, counters, rounds);
    });
  };
  const auto each = [&](void (*kernel)(unsigned*, int)) { return (time(kernel, 1100) - time(kernel, 100)) / 1000; };
  report("hand_over_seconds", each(ping_pong) / 2, "us", 1e6);
  report("grid_barrier_seconds", each(barriers), "us", 1e6);
  cudaFree(counters);
}

// ---- launches ------------------------------------------------------------------------------------------------------

__global__ void nothing() {}
__global__ void nothing_early() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
  cudaGridDependencySynchronize();
#endif
}
__global__ void one_less(int* left, cudaGraphConditionalHandle handle) {
  cudaGraphSetConditional(handle, --*left > 0);
}
__global__ void set(int* left, int value) { *left = value; }

double graph_seconds(cudaGraph_t graph) {
  cudaGraphExec_t exec;
  need(cudaGraphInstantiate(&exec, graph, 0), "a graph");
  const double time = seconds([&] { cudaGraphLaunch(exec, stream); });
  cudaGraphExecDestroy(exec);
  return time;
}
// A graph of `count` launches.
double captured(int count, const std::function<void()>& one) {
  cudaGraph_t graph;
  need(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "a capture");
  for (int i = 0; i < count; i++) one();
  need(cudaStreamEndCapture(stream, &graph), "a capture");
  const double time = graph_seconds(graph);
  cudaGraphDestroy(graph);
  return time;
}
// A loop of `rounds` over one kernel, which decides whether to go on.
double loop(int rounds, int* left) {
  cudaGraph_t graph;
  cudaGraphConditionalHandle handle;
  need(cudaGraphCreate(&graph, 0), "a graph");
  need(cudaGraphConditionalHandleCreate(&handle, graph, 1, cudaGraphCondAssignDefault), "a condition");
  void* set_arguments[] = {&left, &rounds};
  void* body_arguments[] = {&left, &handle};
  cudaKernelNodeParams kernel{};
  kernel.func = reinterpret_cast<void*>(set);
  kernel.gridDim = kernel.blockDim = dim3(1);
  kernel.kernelParams = set_arguments;
  cudaGraphNode_t first, second, inner;
  need(cudaGraphAddKernelNode(&first, graph, nullptr, 0, &kernel), "a node");
  cudaGraphNodeParams condition{};
  condition.type = cudaGraphNodeTypeConditional;
  condition.conditional.handle = handle;
  condition.conditional.type = cudaGraphCondTypeWhile;
  condition.conditional.size = 1;
  need(cudaGraphAddNode(&second, graph, &first, nullptr, 1, &condition), "a loop");
  kernel.func = reinterpret_cast<void*>(one_less);
  kernel.kernelParams = body_arguments;
  need(cudaGraphAddKernelNode(&inner, condition.conditional.phGraph_out[0], nullptr, 0, &kernel), "a node");
  const double time = graph_seconds(graph);
  cudaGraphDestroy(graph);
  return time;
}

void launches() {
  const auto plain = [] { nothing<<<132, 128, 0, stream>>>(); };
  const auto early = [] {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(132);
    config.blockDim = dim3(128);
    config.stream = stream;
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &attribute;
    config.numAttrs = 1;
    cudaLaunchKernelEx(&config, nothing_early);
  };
  const auto times = [](int n, const std::function<void()>& one) {
    return seconds([&] { for (int i = 0; i < n; i++) one(); });
  };
  report("launch_seconds", (times(300, plain) - times(100, plain)) / 200, "us", 1e6);
  report("graph_kernel_seconds", (captured(300, plain) - captured(100, plain)) / 200, "us", 1e6);
  report("graph_dependent_kernel_seconds", (captured(300, early) - captured(100, early)) / 200, "us", 1e6);
  report("graph_launch_seconds", captured(1, plain), "us", 1e6);
  int* left;
  need(cudaMalloc(&left, 4), "memory");
  report("graph_loop_round_seconds", (loop(1100, left) - loop(100, left)) / 1000, "us", 1e6);
  cudaFree(left);
}

}  // namespace

int main(int argc, char** argv) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    fprintf(stderr, "There is no CUDA device here.\n");
    return 77;
  }
  cudaDeviceProp properties;
  need(cudaGetDeviceProperties(&properties, 0), "the device");
  need(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  printf("%s, %d multiprocessors, %.0f MB of second-level cache\n", properties.name, properties.multiProcessorCount,
         properties.l2CacheSize / 1e6);
  const auto write = [&] {  // after each group, so that one that hangs loses only itself
    FILE* out = argc > 1 ? fopen(argv[1], "w") : nullptr;
    if (out == nullptr) return;
    fprintf(out, "{\"device\": \"%s\", \"multiprocessors\": %d", properties.name, properties.multiProcessorCount);
    for (const Result& r : results) fprintf(out, ",\n \"%s\": %.6g", r.name, r.value);
    fprintf(out, "}\n");
    fclose(out);
  };
  memory(properties.multiProcessorCount);
  write();
  launches();
  write();
  waiting(properties.multiProcessorCount);
  write();
  return 0;
}
