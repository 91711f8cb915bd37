/* How many multiply-accumulates a core can do on registers alone: `roof f32|bf16|int8 SECONDS` prints 10^9 a second of
 * CPU. No network can be faster than this. Ends with 3 where the processor has no such instruction. */

#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHAINS 12
#define TURNS 4000000L
#define ALL(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)

/* Twelve chains hide the latency of any of these instructions and fit sixteen registers. They are written out and fenced one by one, since
 * compilers keep an array on the stack and fold a chain whose operands never change. */
#define FENCED(n) __asm__ volatile("" : "+v"(sum##n));
#define LOOP(TYPE, ZERO, STEP)                                                                                  \
  TYPE none = ZERO;                                                                                             \
  TYPE sum0 = none, sum1 = none, sum2 = none, sum3 = none, sum4 = none, sum5 = none, sum6 = none, sum7 = none;  \
  TYPE sum8 = none, sum9 = none, sum10 = none, sum11 = none;                                                    \
  for (long turn = 0; turn < TURNS; turn++) {                                                                   \
    ALL(STEP)                                                                                                   \
    ALL(FENCED)                                                                                                 \
  }

#define F32_512(n) sum##n = _mm512_fmadd_ps(a, b, sum##n);
#define F32_256(n) sum##n = _mm256_fmadd_ps(a, b, sum##n);
#define BF16_512(n) sum##n = _mm512_dpbf16_ps(sum##n, a, b);
#define INT8_512(n) sum##n = _mm512_dpbusd_epi32(sum##n, a, b);

__attribute__((target("avx512f"), noinline)) static double f32_512(void) {
  __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
  LOOP(__m512, _mm512_setzero_ps(), F32_512)
  return 16.0;
}

__attribute__((target("avx2,fma"), noinline)) static double f32_256(void) {
  __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
  LOOP(__m256, _mm256_setzero_ps(), F32_256)
  return 8.0;
}

__attribute__((target("avx512f,avx512bf16"), noinline)) static double bf16_512(void) {
  __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.5f));
  __m512bh b = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.25f), _mm512_set1_ps(0.25f));
  LOOP(__m512, _mm512_setzero_ps(), BF16_512)
  return 32.0;
}

__attribute__((target("avx512f,avx512vnni"), noinline)) static double int8_512(void) {
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  LOOP(__m512i, _mm512_setzero_si512(), INT8_512)
  return 64.0;
}

static double cpu_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int main(int count, char **words) {
  if (count != 3) return 2;
  double (*loop)(void) = NULL;
  if (!strcmp(words[1], "f32")) {
    if (__builtin_cpu_supports("avx512f")) loop = f32_512;
    else if (__builtin_cpu_supports("fma")) loop = f32_256;
  } else if (!strcmp(words[1], "bf16")) {
    if (__builtin_cpu_supports("avx512bf16")) loop = bf16_512;
  } else if (!strcmp(words[1], "int8")) {
    if (__builtin_cpu_supports("avx512vnni")) loop = int8_512;
  } else {
    return 2;
  }
  if (!loop) return 3;
  loop();
  double began = cpu_seconds(), wanted = atof(words[2]), passed = 0.0, done = 0.0;
  while (passed < wanted) {
    done += loop() * (double)CHAINS * (double)TURNS;
    passed = cpu_seconds() - began;
  }
  printf("%.3f\n", done / passed / 1e9);
  return 0;
}
