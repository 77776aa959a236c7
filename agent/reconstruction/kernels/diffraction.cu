// The fused GPU form of forward.accumulate: what happens between the transforms. gpu_launches.py holds the order of the launches.
//
// Arrays are in the order of an FFT, zero frequency first; a window of the object is read with its middle first. Transforms
// are unnormalised both ways; each kernel says which factor it makes up for. A chunk is a number of patterns that are held
// at once; `index` holds their numbers, -1 where a chunk is padded to its fixed size. Waves are (pattern, mode, pixel).
//
// Sums are made in a fixed order, without atomics, so that the same data give the same bits: a thread adds up a segment of
// SEGMENT patterns, an object pixel visits the patterns that see it one by one, and `sum_rows` adds up what these leave.
//
// Sizes are known when the kernels are compiled: NY, NX, MODES, APERTURES (modes and variations of the first), SEGMENT,
// PIXELS (per thread), AHEAD (patterns loaded together), TILE_Y x TILE_X (object pixels with one list of patterns).
//
// Without a CUDA compiler this is plain C++ in which a loop stands for the grid; so the tests drive the same source.

#ifdef __CUDACC__
#define KERNEL extern "C" __global__ void __launch_bounds__(256)
#define INLINE static __device__ __forceinline__
#define THREADS(i) for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n_threads; i += gridDim.x * blockDim.x)

// *target = sum of `value` over the 32 threads of a warp, all of which must call.
INLINE void warp_sum(unsigned thread, float value, float* target) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
  if (thread % 32 == 0) *target = value;
}
#else
#include <math.h>
struct float2 { float x, y; };
struct int2 { int x, y; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline void sincospif(float x, float* sine, float* cosine) {
  *sine = sin(M_PI * x);
  *cosine = cos(M_PI * x);
}
#define KERNEL extern "C" void
#define INLINE static inline
#ifdef BACKWARD  // a kernel whose threads depend on each other's results shows itself here
#define THREADS(i) for (unsigned i = n_threads; i-- > 0;)
#define FIRST_LANE 31
#else
#define THREADS(i) for (unsigned i = 0; i < n_threads; ++i)
#define FIRST_LANE 0
#endif
static inline void warp_sum(unsigned thread, float value, float* target) {
  *target = thread % 32 == FIRST_LANE ? value : *target + value;
}
#endif

#define PLANE (NY * NX)
#define GROUP (32 * PIXELS)
#define GROUPS ((PLANE + GROUP - 1) / GROUP)

enum { POISSON, AMPLITUDE, GAUSSIAN };
enum { UINT8, UINT16, FLOAT32 };

INLINE float2 times(float2 a, float2 b) { return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x); }
INLINE float2 times_conjugate(float2 a, float2 b) { return make_float2(a.x * b.x + a.y * b.y, a.y * b.x - a.x * b.y); }
INLINE float2 scaled(float2 a, float factor) { return make_float2(a.x * factor, a.y * factor); }
INLINE float2 sum(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
INLINE float frequency(int k, int n) { return (float)(k < (n + 1) / 2 ? k : k - n) / n; }
INLINE int last_of(int segment, int patterns) { return (segment + 1) * SEGMENT < patterns ? (segment + 1) * SEGMENT : patterns; }

// exp(-2 pi i k.f) / sqrt(PLANE): a factor for each row and each column. The root makes the transforms that follow unitary.
INLINE float2 ramp_at(const float2* ramps, int pattern, int pixel) {
  const float2* own = ramps + pattern * (NY + NX);
  return times(own[pixel / NX], own[NY + pixel % NX]);
}

// Of one pattern each: the ramps (patterns, NY + NX), and the window's corner (x, y), which padding has where nothing is.
KERNEL prepare(unsigned n_threads, const int* __restrict__ index, const int2* __restrict__ corners,
               const float2* __restrict__ subpixel_shifts, float2* __restrict__ ramps, int2* __restrict__ places) {
  THREADS(i) {
    const int j = i / (NY + NX), k = i % (NY + NX), number = index[j];
    if (k == 0) places[j] = number < 0 ? make_int2(-(1 << 29), -(1 << 29)) : make_int2(corners[number].y, corners[number].x);
    if (number < 0) continue;
    const bool row = k < NY;
    const float turns = row ? frequency(k, NY) * subpixel_shifts[number].x : frequency(k - NY, NX) * subpixel_shifts[number].y;
    float2 factor;
    sincospif(-2.0f * turns, &factor.y, &factor.x);
    ramps[i] = row ? scaled(factor, sqrtf(1.0f / PLANE)) : factor;
  }
}

// Apertures times weights times ramp, to be transformed to probes. Threads: (segment, pixel).
KERNEL illuminate(unsigned n_threads, int patterns, const int* __restrict__ index, const float2* __restrict__ apertures,
                  const float* __restrict__ weights, const float2* __restrict__ ramps, float2* __restrict__ waves) {
  THREADS(i) {
    const int pixel = i % PLANE, segment = i / PLANE, end = last_of(segment, patterns);
    for (int mode = 0; mode < MODES; ++mode) {
      const float2 aperture = apertures[mode * PLANE + pixel];
      for (int j = segment * SEGMENT; j < end; ++j) {
        float2 wave = make_float2(0, 0);  // padding stays dark
        if (index[j] >= 0) {
          const float* weight = weights + index[j] * APERTURES;
          wave = scaled(aperture, weight[mode]);
          for (int v = MODES; mode == 0 && v < APERTURES; ++v)
            wave = sum(wave, scaled(apertures[v * PLANE + pixel], weight[v]));
          wave = times(wave, ramp_at(ramps, j, pixel));
        }
        waves[(j * MODES + mode) * PLANE + pixel] = wave;
      }
    }
  }
}

// Waves in front of a slice times the windows of the slice. Threads: (pattern, pixel).
KERNEL transmit(unsigned n_threads, int width, const int2* __restrict__ places, const float2* __restrict__ slice,
                const float2* __restrict__ incident, float2* __restrict__ waves) {
  THREADS(i) {
    const int pixel = i % PLANE, j = i / PLANE;
    const int2 place = places[j];
    const int y = place.y + (pixel / NX + NY / 2) % NY, x = place.x + (pixel % NX + NX / 2) % NX;
    const float2 transmission = place.x < 0 ? make_float2(0, 0) : slice[y * width + x];
    const unsigned first = j * MODES * PLANE + pixel;
#pragma unroll
    for (int mode = 0; mode < MODES; ++mode)
      waves[first + mode * PLANE] = times(incident[first + mode * PLANE], transmission);
  }
}

// Waves between slices, in reciprocal space; 1/PLANE for the two transforms round it. Threads: (segment of waves, pixel).
KERNEL propagate(unsigned n_threads, int n_waves, int backwards, const float2* __restrict__ propagator,
                 float2* __restrict__ waves) {
  THREADS(i) {
    const int pixel = i % PLANE, segment = i / PLANE, end = last_of(segment, n_waves);
    float2 factor = scaled(propagator[pixel], 1.0f / PLANE);
    if (backwards) factor.y = -factor.y;
#pragma unroll 4
    for (int wave = segment * SEGMENT; wave < end; ++wave)
      waves[wave * PLANE + pixel] = times(waves[wave * PLANE + pixel], factor);
  }
}

INLINE float count_at(const void* counts, int kind, int number, int pixel) {
  const long long place = (long long)number * PLANE + pixel;  // all patterns together can hold more than 2^31 pixels
  if (kind == UINT8) return ((const unsigned char*)counts)[place];
  if (kind == UINT16) return ((const unsigned short*)counts)[place];
  return ((const float*)counts)[place];
}

// See forward.residual. FUSED: the model is the waves' intensity, and the waves become residuals, with 1/PLANE for the
// transforms before and behind. Otherwise the model stands in `field`, and the factor takes its place there.
template <bool FUSED>
INLINE void compare_with_counts(unsigned i, int patterns, const int* __restrict__ index, const void* __restrict__ counts,
                                int kind, const float* __restrict__ mask, const float* __restrict__ background, float count_offset,
                                float variance, int loss, int want_adjoint, int want_ratio, int want_deviance,
                                float2* __restrict__ field, float* __restrict__ ratios, float* __restrict__ modelled,
                                float* __restrict__ deviances) {
  constexpr int planes = FUSED ? MODES : 1;
  const int lane = i % 32, group = i / 32 % GROUPS, segment = i / (32 * GROUPS), end = last_of(segment, patterns);
  const int first = group * GROUP + lane;
  float ratio_sum[PIXELS];
#pragma unroll
  for (int q = 0; q < PIXELS; ++q) ratio_sum[q] = 0;
  for (int j = segment * SEGMENT; j < end; ++j) {
    const int number = index[j];
    if (number < 0) continue;
    float2 wave[PIXELS][planes];
#pragma unroll
    for (int q = 0; q < PIXELS; ++q)
#pragma unroll
      for (int mode = 0; mode < planes; ++mode)
        if (first + 32 * q < PLANE) wave[q][mode] = field[(j * planes + mode) * PLANE + first + 32 * q];
    float expected = 0, deviance = 0;
#pragma unroll
    for (int q = 0; q < PIXELS; ++q) {
      const int pixel = first + 32 * q;
      if (pixel >= PLANE) continue;
      float intensity = wave[q][0].x;
      if (FUSED) {
        intensity = 0;
#pragma unroll
        for (int mode = 0; mode < planes; ++mode)
          intensity += wave[q][mode].x * wave[q][mode].x + wave[q][mode].y * wave[q][mode].y;
        intensity *= 1.0f / PLANE;
      }
      const float model = intensity + background[pixel], seen = mask[pixel];
      const float counted = count_at(counts, kind, number, pixel);
      const float ratio = (counted + count_offset) / (model + count_offset);
      ratio_sum[q] += ratio;
      expected += model * seen;
      if (want_deviance) deviance += ((counted + count_offset) * logf(fmaxf(ratio, 1e-30f)) - (counted - model)) * seen;
      if (!want_adjoint) continue;
      float factor = 0.5f * (ratio - 1.0f);
      if (loss == AMPLITUDE) factor = sqrtf(ratio) - 1.0f;
      if (loss == GAUSSIAN) factor = 0.5f * (counted - model) / variance;
      factor *= seen;
#pragma unroll
      for (int mode = 0; mode < planes; ++mode)
        field[(j * planes + mode) * PLANE + pixel] =
            FUSED ? scaled(wave[q][mode], factor * (1.0f / PLANE)) : make_float2(factor, 0.0f);
    }
    warp_sum(i, expected, modelled + j * GROUPS + group);
    if (want_deviance) warp_sum(i, deviance, deviances + j * GROUPS + group);
  }
#pragma unroll
  for (int q = 0; q < PIXELS; ++q)
    if (want_ratio && first + 32 * q < PLANE) ratios[segment * PLANE + first + 32 * q] = ratio_sum[q];
}

// Waves on a perfect detector. Threads: (segment, group of pixels, lane).
KERNEL detect(unsigned n_threads, int patterns, const int* __restrict__ index, const void* __restrict__ counts, int kind,
              const float* __restrict__ mask, const float* __restrict__ background, float count_offset, float variance, int loss,
              int want_adjoint, int want_ratio, int want_deviance, float2* __restrict__ field, float* __restrict__ ratios,
              float* __restrict__ modelled, float* __restrict__ deviances) {
  THREADS(i)
    compare_with_counts<true>(i, patterns, index, counts, kind, mask, background, count_offset, variance, loss, want_adjoint,
                              want_ratio, want_deviance, field, ratios, modelled, deviances);
}

// The same where a point spread comes between: `field` (patterns, PLANE) holds the model and then the factor.
KERNEL compare(unsigned n_threads, int patterns, const int* __restrict__ index, const void* __restrict__ counts, int kind,
               const float* __restrict__ mask, const float* __restrict__ background, float count_offset, float variance, int loss,
               int want_adjoint, int want_ratio, int want_deviance, float2* __restrict__ field, float* __restrict__ ratios,
               float* __restrict__ modelled, float* __restrict__ deviances) {
  THREADS(i)
    compare_with_counts<false>(i, patterns, index, counts, kind, mask, background, count_offset, variance, loss, want_adjoint,
                               want_ratio, want_deviance, field, ratios, modelled, deviances);
}

// Intensity of the waves on the detector, 1/PLANE for the transform before. Threads: (pattern, pixel).
KERNEL intensity(unsigned n_threads, const float2* __restrict__ waves, float2* __restrict__ planes) {
  THREADS(i) {
    const unsigned first = i / PLANE * MODES * PLANE + i % PLANE;
    float total = 0;
    for (int mode = 0; mode < MODES; ++mode) {
      const float2 wave = waves[first + mode * PLANE];
      total += wave.x * wave.x + wave.y * wave.y;
    }
    planes[i] = make_float2(total * (1.0f / PLANE), 0.0f);
  }
}

// Point spread, between two transforms. Threads: (pattern, pixel).
KERNEL filter(unsigned n_threads, const float* __restrict__ transfer, float2* __restrict__ planes) {
  THREADS(i) planes[i] = scaled(planes[i], transfer[i % PLANE] * (1.0f / PLANE));
}

// Waves times the factor, 1/PLANE for the transforms before and behind. Threads: (pattern, pixel).
KERNEL modulate(unsigned n_threads, const float2* __restrict__ planes, float2* __restrict__ waves) {
  THREADS(i) {
    const unsigned first = i / PLANE * MODES * PLANE + i % PLANE;
    const float factor = planes[i].x * (1.0f / PLANE);
    for (int mode = 0; mode < MODES; ++mode) waves[first + mode * PLANE] = scaled(waves[first + mode * PLANE], factor);
  }
}

// Which patterns see a tile of the object: lists (part, tile, 1 + patterns per part), how many and which, in their order. The
// patterns are dealt out to the parts one by one. Threads: (part, tile).
KERNEL cover(unsigned n_threads, int patterns, int height, int width, int parts, const int2* __restrict__ places,
             int* __restrict__ lists) {
  THREADS(i) {
    const int across = (width + TILE_X - 1) / TILE_X, tiles = (height + TILE_Y - 1) / TILE_Y * across;
    const int tile = i % tiles, part = i / tiles, y = tile / across * TILE_Y, x = tile % across * TILE_X;
    if (part >= parts) continue;
    int* list = lists + (long long)i * (1 + (patterns + parts - 1) / parts);
    int count = 0;
#pragma unroll 8
    for (int j = part; j < patterns; j += parts) {
      const int2 place = places[j];
      if (place.y < y + TILE_Y && place.y + NY > y && place.x < x + TILE_X && place.x + NX > x) list[++count] = j;
    }
    list[0] = count;
  }
}

// Residual waves back through a slice: conj(incident)·wave and |incident|² are added up where the window lies, and a wave that
// has to `go_on` becomes conj(slice)·wave. Threads: (part, tile, pixel of the tile), each for the patterns in its part's list;
// sums (part, height, width).
KERNEL transmit_back(unsigned n_threads, int patterns, int height, int width, int parts, int go_on,
                     const int2* __restrict__ places, const int* __restrict__ lists, const float2* __restrict__ slice,
                     const float2* __restrict__ incident, float2* __restrict__ waves, float2* __restrict__ numerator,
                     float* __restrict__ illumination) {
  THREADS(i) {
    const int tiles = (width + TILE_X - 1) / TILE_X, all_tiles = (height + TILE_Y - 1) / TILE_Y * tiles;
    const int tile = i / (TILE_Y * TILE_X) % all_tiles, part = i / (TILE_Y * TILE_X) / all_tiles;
    const int y = tile / tiles * TILE_Y + i / TILE_X % TILE_Y, x = tile % tiles * TILE_X + i % TILE_X;
    if (y >= height || x >= width) continue;
    const float2 transmission = slice[y * width + x];
    const int* list = lists + ((long long)part * all_tiles + tile) * (1 + (patterns + parts - 1) / parts);
    const int end = list[0];
    float2 product = make_float2(0, 0);
    float lit = 0;
    for (int first = 0; first < end; first += AHEAD) {
      int where[AHEAD];
      float2 wave[AHEAD][MODES], before[AHEAD][MODES];
#pragma unroll
      for (int q = 0; q < AHEAD; ++q) {
        where[q] = -1;
        if (first + q >= end) continue;
        const int j = list[1 + first + q];
        const int row = y - places[j].y, column = x - places[j].x;
        if (row < 0 || row >= NY || column < 0 || column >= NX) continue;
        where[q] = j * MODES * PLANE + (row + NY - NY / 2) % NY * NX + (column + NX - NX / 2) % NX;
#pragma unroll
        for (int mode = 0; mode < MODES; ++mode) {
          wave[q][mode] = waves[where[q] + mode * PLANE];
          before[q][mode] = incident[where[q] + mode * PLANE];
        }
      }
#pragma unroll
      for (int q = 0; q < AHEAD; ++q) {
        if (where[q] < 0) continue;
#pragma unroll
        for (int mode = 0; mode < MODES; ++mode) {
          product = sum(product, times_conjugate(wave[q][mode], before[q][mode]));
          lit += before[q][mode].x * before[q][mode].x + before[q][mode].y * before[q][mode].y;
          if (go_on) waves[where[q] + mode * PLANE] = times_conjugate(wave[q][mode], transmission);
        }
      }
    }
    numerator[(part * height + y) * width + x] = product;
    illumination[(part * height + y) * width + x] = lit;
  }
}

// Residuals in the aperture plane, in the pixels `lit`: the shift undone, their sums (segment, APERTURES, lit) over patterns,
// and for each pattern the slopes (pattern, 2 + APERTURES, group). Threads: (segment, group of lit pixels, lane).
KERNEL collect(unsigned n_threads, int patterns, int n_lit, const int* __restrict__ index, const int* __restrict__ lit,
               const float2* __restrict__ apertures, const float* __restrict__ weights, const float2* __restrict__ ramps,
               const float2* __restrict__ waves, float2* __restrict__ sums, float* __restrict__ slopes) {
  THREADS(i) {
    const int groups = (n_lit + GROUP - 1) / GROUP, lane = i % 32, group = i / 32 % groups, segment = i / (32 * groups);
    const int first = group * GROUP + lane, end = last_of(segment, patterns);
    int pixels[PIXELS];
    float2 aperture[PIXELS][APERTURES], total[PIXELS][APERTURES];
#pragma unroll
    for (int q = 0; q < PIXELS; ++q) {
      pixels[q] = first + 32 * q < n_lit ? lit[first + 32 * q] : -1;
#pragma unroll
      for (int v = 0; v < APERTURES; ++v) {
        total[q][v] = make_float2(0, 0);
        if (pixels[q] >= 0) aperture[q][v] = apertures[v * PLANE + pixels[q]];
      }
    }
    for (int j = segment * SEGMENT; j < end; ++j) {
      if (index[j] < 0) continue;
      const float* weight = weights + index[j] * APERTURES;
      float slope_y = 0, slope_x = 0, by_weight[APERTURES];
#pragma unroll
      for (int v = 0; v < APERTURES; ++v) by_weight[v] = 0;
#pragma unroll
      for (int q = 0; q < PIXELS; ++q) {
        const int pixel = pixels[q];
        if (pixel < 0) continue;
        const float2 ramp = ramp_at(ramps, j, pixel);
        float turned = 0;
#pragma unroll
        for (int mode = 0; mode < MODES; ++mode) {
          const float2 back = times_conjugate(waves[(j * MODES + mode) * PLANE + pixel], ramp);
          float2 own = make_float2(0, 0);
#pragma unroll
          for (int v = 0; v < APERTURES; ++v) {
            if (v != mode && (mode > 0 || v < MODES)) continue;  // variations belong to the first mode
            total[q][v] = sum(total[q][v], scaled(back, weight[v]));
            by_weight[v] += back.x * aperture[q][v].x + back.y * aperture[q][v].y;
            own = sum(own, scaled(aperture[q][v], weight[v]));
          }
          turned += back.x * own.y - back.y * own.x;
        }
        slope_y += turned * frequency(pixel / NX, NY);
        slope_x += turned * frequency(pixel % NX, NX);
      }
      float* slope = slopes + j * (2 + APERTURES) * groups + group;
      warp_sum(i, 6.2831853f * slope_y, slope);
      warp_sum(i, 6.2831853f * slope_x, slope + groups);
#pragma unroll
      for (int v = 0; v < APERTURES; ++v) warp_sum(i, by_weight[v], slope + (2 + v) * groups);
    }
#pragma unroll
    for (int q = 0; q < PIXELS; ++q)
#pragma unroll
      for (int v = 0; v < APERTURES; ++v)
        if (pixels[q] >= 0) sums[(segment * APERTURES + v) * n_lit + first + 32 * q] = total[q][v];
  }
}

// out[c] = sum over rows of partial[row][c], or more of it. Threads: columns.
KERNEL sum_rows(unsigned n_threads, int rows, int columns, int add, const float* __restrict__ partial,
                float* __restrict__ out) {
  THREADS(i) {
    if ((int)i >= columns) continue;
    float total = add ? out[i] : 0.0f;
#pragma unroll 8
    for (int row = 0; row < rows; ++row) total += partial[(unsigned)row * columns + i];
    out[i] = total;
  }
}

// out[r] = sum over columns of partial[r][column]. Threads: (row, lane).
KERNEL sum_columns(unsigned n_threads, int columns, const float* __restrict__ partial, float* __restrict__ out) {
  THREADS(i) {
    float total = 0;
    for (int column = i % 32; column < columns; column += 32) total += partial[(i / 32) * columns + column];
    warp_sum(i, total, out + i / 32);
  }
}
