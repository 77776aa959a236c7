// Waves through the specimen and back, each in the shared memory of one thread block: what `gpu_launches.py` launches in place of cuFFT
// and the kernels between its transforms, for the detectors of `gpu_buffers.Dimensions.in_shared`. Follows diffraction.cu, whose
// conventions and helpers it uses; the factors that it takes up and leaves are the same.
//
// A transform along an axis of n = 8·Q pixels (Q = 4, 8, 12 or 16) is two steps in registers, of Q and of 8, which read and
// write shared memory in place. With k = a + 8·b and y = b + Q·a (a < 8, b < Q) it is, towards the specimen,
//
//   over k's b  ->  times exp(2 pi i a b / n)  ->  over k's a
//
// and the other way round away from it. A thread ends one transform with the numbers that it begins the next one with, so
// that what comes between (object, propagator) happens in its registers. Rows of shared memory hold a + 9·b, and are padded:
// then no two threads of a half-warp ask for the same bank, along either axis.
//
// Blocks do not know of each other. Within one, STEP is a barrier and then all its threads; a thread of a step touches only
// its own numbers, so that on the CPU a loop in any order stands for the block.

#if IN_SHARED

#define QY (NY / 8)
#define QX (NX / 8)
#define ROW ((9 * QX + 7) / 16 * 16 + 8)
#define WAVE_THREADS (PLANE / PER_THREAD)

#ifdef __CUDACC__
#define WAVE_KERNEL extern "C" __global__ void __launch_bounds__(WAVE_THREADS)
#define MEMBER __device__ __forceinline__
#define BLOCK_MEMORY extern __shared__ float2 memory[];
#define BLOCKS(w) for (unsigned w = blockIdx.x; w < n_blocks; w += gridDim.x)
#define STEP(task, tasks) \
  __syncthreads();        \
  for (int task = threadIdx.x; task < (tasks); task += WAVE_THREADS)
#else
#define WAVE_KERNEL extern "C" void
#define MEMBER inline
#define BLOCK_MEMORY static thread_local float2 memory[NY * ROW + QY + QX];
#define BLOCKS(w) for (unsigned w = 0; w < n_blocks; ++w)
#ifdef BACKWARD
#define STEP(task, tasks) for (int task = (tasks); task-- > 0;)
#else
#define STEP(task, tasks) for (int task = 0; task < (tasks); ++task)
#endif
#endif

INLINE float2 difference(float2 a, float2 b) { return make_float2(a.x - b.x, a.y - b.y); }

// a·i towards the specimen, −a·i away from it.
template <bool IN>
INLINE float2 quarter(float2 a) {
  return IN ? make_float2(-a.y, a.x) : make_float2(a.y, -a.x);
}

// a·exp(±2 pi i angle), its cosine and sine given.
template <bool IN>
INLINE float2 turned(float2 a, float cosine, float sine) {
  return times(a, make_float2(cosine, IN ? sine : -sine));
}

template <bool IN>
INLINE void butterfly4(float2& a, float2& b, float2& c, float2& d) {
  const float2 p = sum(a, c), q = difference(a, c), r = sum(b, d), s = quarter<IN>(difference(b, d));
  a = sum(p, r);
  b = sum(q, s);
  c = difference(p, r);
  d = difference(q, s);
}

template <bool IN>
INLINE void butterfly3(float2& a, float2& b, float2& c) {
  const float2 p = sum(b, c), q = scaled(quarter<IN>(difference(b, c)), 0.8660254037844386f);
  const float2 r = make_float2(a.x - 0.5f * p.x, a.y - 0.5f * p.y);
  a = sum(a, p);
  b = sum(r, q);
  c = difference(r, q);
}

// Unnormalised transforms of n numbers, natural order before and after.
template <int n, bool IN>
INLINE void transform(float2 (&v)[n]) {
  if constexpr (n == 4) {
    butterfly4<IN>(v[0], v[1], v[2], v[3]);
  } else if constexpr (n == 8) {
    constexpr float half = 0.7071067811865476f;
    butterfly4<IN>(v[0], v[2], v[4], v[6]);
    butterfly4<IN>(v[1], v[3], v[5], v[7]);
    const float2 odd[4] = {v[1], turned<IN>(v[3], half, half), quarter<IN>(v[5]), turned<IN>(v[7], -half, half)};
    const float2 even[4] = {v[0], v[2], v[4], v[6]};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      v[k] = sum(even[k], odd[k]);
      v[k + 4] = difference(even[k], odd[k]);
    }
  } else {
    constexpr int m = n / 4;  // 3 or 4
    constexpr float cosines[2][10] = {
        {1.0f, 0.8660254037844386f, 0.5f, 0.0f, -0.5f, 0, -1.0f, 0, 0, 0},
        {1.0f, 0.9238795325112867f, 0.7071067811865476f, 0.3826834323650898f, 0.0f, 0, -0.7071067811865476f, 0, 0,
         -0.9238795325112867f}};
    constexpr float sines[2][10] = {
        {0.0f, 0.5f, 0.8660254037844386f, 1.0f, 0.8660254037844386f, 0, 0.0f, 0, 0, 0},
        {0.0f, 0.3826834323650898f, 0.7071067811865476f, 0.9238795325112867f, 1.0f, 0, 0.7071067811865476f, 0, 0,
         -0.3826834323650898f}};
#pragma unroll
    for (int j = 0; j < m; ++j) {
      butterfly4<IN>(v[j], v[j + m], v[j + 2 * m], v[j + 3 * m]);
#pragma unroll
      for (int k = 1; k < 4; ++k)
        if (j > 0) v[j + m * k] = turned<IN>(v[j + m * k], cosines[m - 3][j * k], sines[m - 3][j * k]);
    }
    float2 in[n];
#pragma unroll
    for (int j = 0; j < n; ++j) in[j] = v[j];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if constexpr (m == 3) butterfly3<IN>(in[3 * k], in[3 * k + 1], in[3 * k + 2]);
      if constexpr (m == 4) butterfly4<IN>(in[4 * k], in[4 * k + 1], in[4 * k + 2], in[4 * k + 3]);
#pragma unroll
      for (int j = 0; j < m; ++j) v[k + 4 * j] = in[m * k + j];
    }
  }
}

// Number a of eight times root^a, or its conjugate.
template <bool IN>
INLINE void twiddle(float2 (&v)[8], float2 root) {
  if (!IN) root.y = -root.y;
  const float2 second = times(root, root), third = times(second, root), fourth = times(second, second);
  v[1] = times(v[1], root);
  v[2] = times(v[2], second);
  v[3] = times(v[3], third);
  v[4] = times(v[4], fourth);
  v[5] = times(v[5], times(fourth, root));
  v[6] = times(v[6], times(third, third));
  v[7] = times(v[7], times(fourth, third));
}

// Where shared memory holds row a + 8·b, column a' + 8·b' in reciprocal space; b + QY·a and b' + QX·a' in real space.
INLINE int place_of(int row, int a, int b) { return row * ROW + a + 9 * b; }

// A wave in shared memory.
struct Plane {
  float2* values;
  float2* roots;  // exp(2 pi i b / n): for columns, then for rows

  MEMBER void first_of_row(int row, int a, float2 (&v)[QX]) const {  // to real space
    transform<QX, true>(v);
#pragma unroll
    for (int b = 0; b < QX; ++b) values[place_of(row, a, b)] = v[b];
  }
  MEMBER void last_of_row(int row, int a, float2 (&v)[QX]) const {  // to reciprocal space
#pragma unroll
    for (int b = 0; b < QX; ++b) v[b] = values[place_of(row, a, b)];
    transform<QX, false>(v);
  }
  template <bool IN>
  MEMBER void row(int row, int b) const {
    float2 v[8];
#pragma unroll
    for (int a = 0; a < 8; ++a) v[a] = values[place_of(row, a, b)];
    if (IN) twiddle<true>(v, roots[QY + b]);
    transform<8, IN>(v);
    if (!IN) twiddle<false>(v, roots[QY + b]);
#pragma unroll
    for (int a = 0; a < 8; ++a) values[place_of(row, a, b)] = v[a];
  }
  template <bool IN>
  MEMBER void column(int x, int a) const {
    float2 v[QY];
    const int place = place_of(a, x / QX, x % QX);
#pragma unroll
    for (int b = 0; b < QY; ++b) v[b] = values[place + 8 * b * ROW];
    transform<QY, IN>(v);
#pragma unroll
    for (int b = 0; b < QY; ++b) values[place + 8 * b * ROW] = v[b];
  }
  MEMBER void last_of_column(int x, int b, float2 (&v)[8]) const {  // to real space: row b + QY·a is v[a]
    const int place = place_of(8 * b, x / QX, x % QX);
#pragma unroll
    for (int a = 0; a < 8; ++a) v[a] = values[place + a * ROW];
    twiddle<true>(v, roots[b]);
    transform<8, true>(v);
  }
  MEMBER void first_of_column(int x, int b, float2 (&v)[8]) const {  // to reciprocal space
    const int place = place_of(8 * b, x / QX, x % QX);
    transform<8, false>(v);
    twiddle<false>(v, roots[b]);
#pragma unroll
    for (int a = 0; a < 8; ++a) values[place + a * ROW] = v[a];
  }
};

INLINE void find_root(float2* roots, int b) {
  sincospif(b < QY ? 2.0f * b / NY : 2.0f * (b - QY) / NX, &roots[b].y, &roots[b].x);
}

// Place in the object of a pixel of the window whose corner is `corner`, the middle first.
INLINE int in_object(int2 corner, int width, int y, int x) {
  return (corner.y + (y + NY / 2) % NY) * width + corner.x + (x + NX / 2) % NX;
}

// Apertures times weights times ramp to the specimen, through its slices and to the detector. What falls on each slice is kept in
// `incident` (slices, stride, PLANE); rows of the aperture that are not `lit` are dark. Blocks: (pattern, mode).
WAVE_KERNEL to_detector(unsigned n_blocks, int slices, int height, int width, int stride, const int* __restrict__ index,
                        const int* __restrict__ lit, const float2* __restrict__ apertures,
                        const float* __restrict__ weights, const float2* __restrict__ ramps,
                        const int2* __restrict__ places, const float2* __restrict__ object,
                        const float2* __restrict__ propagators, float2* __restrict__ incident,
                        float2* __restrict__ waves) {
  BLOCK_MEMORY
  const Plane plane = {memory, memory + NY * ROW};
  BLOCKS(w) {
    const int j = w / MODES, mode = w % MODES, number = index[j];
    if (number < 0) continue;
    const float* weight = weights + number * APERTURES;
    STEP(b, QY + QX) find_root(plane.roots, b);
    STEP(task, NY * 8) {
      const int row = task / 8, a = task % 8;
      float2 v[QX];
#pragma unroll
      for (int b = 0; b < QX; ++b) {
        const int pixel = row * NX + a + 8 * b;
        v[b] = make_float2(0, 0);
        if (!lit[row]) continue;
        v[b] = scaled(apertures[mode * PLANE + pixel], weight[mode]);
        for (int more = MODES; mode == 0 && more < APERTURES; ++more)
          v[b] = sum(v[b], scaled(apertures[more * PLANE + pixel], weight[more]));
        v[b] = times(v[b], ramp_at(ramps, j, pixel));
      }
      plane.first_of_row(row, a, v);
    }
    for (int s = 0; s < slices; ++s) {
      if (s > 0) {
        const float2* propagator = propagators + (s - 1) * PLANE;
        STEP(task, NY * 8) {
          const int row = task / 8, a = task % 8;
          float2 v[QX];
          plane.last_of_row(row, a, v);
#pragma unroll
          for (int b = 0; b < QX; ++b) v[b] = times(v[b], scaled(propagator[row * NX + a + 8 * b], 1.0f / PLANE));
          plane.first_of_row(row, a, v);
        }
      }
      STEP(task, NY * QX) {
        if (s > 0 || lit[task / QX]) plane.row<true>(task / QX, task % QX);
      }
      STEP(task, NX * 8) plane.column<true>(task % NX, task / NX);
      float2* kept = incident + ((long long)s * stride + w) * PLANE;
      const float2* slice = object + (long long)s * height * width;
      STEP(task, NX * QY) {
        const int x = task % NX, b = task / NX;
        float2 v[8];
        plane.last_of_column(x, b, v);
#pragma unroll
        for (int a = 0; a < 8; ++a) {
          const int y = b + QY * a;
          kept[y * NX + x] = v[a];
          v[a] = times(v[a], slice[in_object(places[j], width, y, x)]);
        }
        plane.first_of_column(x, b, v);
      }
      STEP(task, NX * 8) plane.column<false>(task % NX, task / NX);
      STEP(task, NY * QX) plane.row<false>(task / QX, task % QX);
    }
    STEP(task, NY * 8) {
      const int row = task / 8, a = task % 8;
      float2 v[QX];
      plane.last_of_row(row, a, v);
#pragma unroll
      for (int b = 0; b < QX; ++b) waves[w * PLANE + row * NX + a + 8 * b] = v[b];
    }
  }
}

// Residual waves on the detector back to the specimen and through its slices; behind each they are kept in `residuals` (slices,
// stride, PLANE). `go_on`: to the aperture, where they take their place in the rows that are `lit`. Blocks: (pattern, mode).
WAVE_KERNEL from_detector(unsigned n_blocks, int slices, int height, int width, int stride, int go_on,
                          const int* __restrict__ index, const int* __restrict__ lit, const int2* __restrict__ places,
                          const float2* __restrict__ object, const float2* __restrict__ propagators,
                          float2* __restrict__ residuals, float2* __restrict__ waves) {
  BLOCK_MEMORY
  const Plane plane = {memory, memory + NY * ROW};
  BLOCKS(w) {
    const int j = w / MODES;
    if (index[j] < 0) continue;
    STEP(b, QY + QX) find_root(plane.roots, b);
    STEP(task, NY * 8) {
      const int row = task / 8, a = task % 8;
      float2 v[QX];
#pragma unroll
      for (int b = 0; b < QX; ++b) v[b] = waves[w * PLANE + row * NX + a + 8 * b];
      plane.first_of_row(row, a, v);
    }
    for (int s = slices - 1; s >= 0; --s) {
      STEP(task, NY * QX) plane.row<true>(task / QX, task % QX);
      STEP(task, NX * 8) plane.column<true>(task % NX, task / NX);
      float2* kept = residuals + ((long long)s * stride + w) * PLANE;
      const float2* slice = object + (long long)s * height * width;
      const bool last = s == 0, further = !last || go_on;
      STEP(task, NX * QY) {
        const int x = task % NX, b = task / NX;
        float2 v[8];
        plane.last_of_column(x, b, v);
#pragma unroll
        for (int a = 0; a < 8; ++a) kept[(b + QY * a) * NX + x] = v[a];
        if (!further) continue;
#pragma unroll
        for (int a = 0; a < 8; ++a)
          v[a] = times_conjugate(v[a], slice[in_object(places[j], width, b + QY * a, x)]);
        plane.first_of_column(x, b, v);
      }
      if (!further) break;
      STEP(task, NX * 8) plane.column<false>(task % NX, task / NX);
      STEP(task, NY * QX) {
        if (!last || lit[task / QX]) plane.row<false>(task / QX, task % QX);
      }
      STEP(task, NY * 8) {
        const int row = task / 8, a = task % 8;
        if (last && !lit[row]) continue;
        float2 v[QX];
        plane.last_of_row(row, a, v);
        if (last) {
#pragma unroll
          for (int b = 0; b < QX; ++b) waves[w * PLANE + row * NX + a + 8 * b] = v[b];
          continue;
        }
        const float2* propagator = propagators + (s - 1) * PLANE;
#pragma unroll
        for (int b = 0; b < QX; ++b)
          v[b] = times_conjugate(v[b], scaled(propagator[row * NX + a + 8 * b], 1.0f / PLANE));
        plane.first_of_row(row, a, v);
      }
    }
  }
}

#endif
