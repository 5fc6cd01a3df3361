// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A takeover that stops before its n-th store, for the test. In a module that is built with HEIRLOOM_STOP=1 alone.
 *
 * The compiler's thread sanitizer pass makes a call of each store and each atomic operation of the Rust object. What is
 * called is here: it counts those of the takeover's thread that go to memory on loan, which the next kernel sees, and ends the
 * takeover before the one that the parameter stop_at names. The others are made as they would have been.
 *
 * A fill or a copy counts as many stores as it writes lines of the cache.
 */
#include <linux/bitmap.h>
#include <linux/cache.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/printk.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "heirloom.h"

#undef pr_fmt
#define pr_fmt(fmt) "heirloom: " fmt

static long stop_at = -1;
module_param(stop_at, long, 0444);
MODULE_PARM_DESC(stop_at, "The store of the takeover before which it stops, from 0 (default -1: none; -2: the last one)");

/* The pages on loan, a bit each, while a takeover is watched. */
static unsigned long *hl_watched_pages;
static unsigned long hl_watched_end;
static struct task_struct *hl_watched;
static long hl_stores;

static void hl_watch_range(const struct heirloom_range *range)
{
	bitmap_set(hl_watched_pages, PHYS_PFN(range->start), PHYS_PFN(range->bytes));
}

void hl_stop_begin(void)
{
	size_t count = hl_loans_count(), i;
	struct heirloom_range *ranges = kvmalloc_array(count, sizeof(*ranges), GFP_KERNEL);

	hl_watched_end = PHYS_PFN(hl_loans_span().bytes);
	hl_watched_pages = kvcalloc(BITS_TO_LONGS(hl_watched_end), sizeof(long), GFP_KERNEL);
	if (ranges && hl_watched_pages) {
		count = hl_loans_ranges(ranges, count);
		for (i = 0; i < count; i++)
			hl_watch_range(&ranges[i]);
		WRITE_ONCE(hl_watched, current);
	}
	kvfree(ranges);
}

void hl_stop_end(void)
{
	WRITE_ONCE(hl_watched, NULL);
	kvfree(hl_watched_pages);
	hl_watched_pages = NULL;
	pr_info("the start made %ld stores that outlive it\n", hl_stores);
}

static void hl_stop(void)
{
	WRITE_ONCE(hl_watched, NULL);
	pr_info("stopped before store %ld\n", hl_stores - 1);
	hl_abandon("by the parameter stop_at");
}

/* A store of the watched task to what outlives it. */
static void hl_count_store(void)
{
	if (hl_stores++ == stop_at)
		hl_stop();
}

/* The store is about to be made. */
static __always_inline void hl_store(const volatile void *at)
{
	unsigned long offset = (unsigned long)at - PAGE_OFFSET;

	if (likely(current != READ_ONCE(hl_watched)))
		return;
	if (PHYS_PFN(offset) < hl_watched_end && test_bit(PHYS_PFN(offset), hl_watched_pages))
		hl_count_store();
}

void hl_stop_store(bool last)
{
	if (current != READ_ONCE(hl_watched))
		return;
	hl_count_store();
	if (last && stop_at == -2)
		hl_stop();
}

/* What the pass calls: see compiler-rt's tsan_interface.h. */

#define HL_ACCESS(name)                                    \
	void __tsan_read##name(const void *at);            \
	void __tsan_read##name(const void *at) {}          \
	void __tsan_write##name(void *at);                 \
	void __tsan_write##name(void *at) { hl_store(at); } \
	void __tsan_read_write##name(void *at);            \
	void __tsan_read_write##name(void *at) { hl_store(at); }

#define HL_UNALIGNED(name)                                           \
	void __tsan_unaligned_read##name(const void *at);            \
	void __tsan_unaligned_read##name(const void *at) {}          \
	void __tsan_unaligned_write##name(void *at);                 \
	void __tsan_unaligned_write##name(void *at) { hl_store(at); } \
	void __tsan_unaligned_read_write##name(void *at);            \
	void __tsan_unaligned_read_write##name(void *at) { hl_store(at); }

HL_ACCESS(1)
HL_ACCESS(2)
HL_ACCESS(4)
HL_ACCESS(8)
HL_ACCESS(16)
HL_UNALIGNED(2)
HL_UNALIGNED(4)
HL_UNALIGNED(8)
HL_UNALIGNED(16)

/* With the strongest order: a call costs more. */
#define HL_ATOMIC_CHANGE(bits, name)                                                      \
	u##bits __tsan_atomic##bits##_fetch_##name(volatile u##bits *at, u##bits by, int); \
	u##bits __tsan_atomic##bits##_fetch_##name(volatile u##bits *at, u##bits by, int order) \
	{                                                                                 \
		hl_store(at);                                                             \
		return __atomic_fetch_##name(at, by, __ATOMIC_SEQ_CST);                   \
	}

#define HL_ATOMIC(bits)                                                                       \
	u##bits __tsan_atomic##bits##_load(const volatile u##bits *at, int order);            \
	u##bits __tsan_atomic##bits##_load(const volatile u##bits *at, int order)             \
	{                                                                                     \
		return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                 \
	}                                                                                     \
	void __tsan_atomic##bits##_store(volatile u##bits *at, u##bits value, int order);     \
	void __tsan_atomic##bits##_store(volatile u##bits *at, u##bits value, int order)      \
	{                                                                                     \
		hl_store(at);                                                                 \
		__atomic_store_n(at, value, __ATOMIC_SEQ_CST);                                \
	}                                                                                     \
	u##bits __tsan_atomic##bits##_exchange(volatile u##bits *at, u##bits value, int order); \
	u##bits __tsan_atomic##bits##_exchange(volatile u##bits *at, u##bits value, int order) \
	{                                                                                     \
		hl_store(at);                                                                 \
		return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);                      \
	}                                                                                     \
	u##bits __tsan_atomic##bits##_compare_exchange_val(volatile u##bits *at, u##bits from, \
							   u##bits to, int set, int fetch);   \
	u##bits __tsan_atomic##bits##_compare_exchange_val(volatile u##bits *at, u##bits from, \
							   u##bits to, int set, int fetch)    \
	{                                                                                     \
		if (__atomic_load_n(at, __ATOMIC_RELAXED) == from)                            \
			hl_store(at);                                                         \
		__atomic_compare_exchange_n(at, &from, to, false, __ATOMIC_SEQ_CST,           \
					    __ATOMIC_SEQ_CST);                                \
		return from;                                                                  \
	}                                                                                     \
	HL_ATOMIC_CHANGE(bits, add)                                                           \
	HL_ATOMIC_CHANGE(bits, sub)                                                           \
	HL_ATOMIC_CHANGE(bits, and)                                                           \
	HL_ATOMIC_CHANGE(bits, or)                                                            \
	HL_ATOMIC_CHANGE(bits, xor)

HL_ATOMIC(8)
HL_ATOMIC(16)
HL_ATOMIC(32)
HL_ATOMIC(64)

void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_thread_fence(int order)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void __tsan_atomic_signal_fence(int order);
void __tsan_atomic_signal_fence(int order)
{
	barrier();
}

void __tsan_init(void);
void __tsan_init(void) {}

/* The bytes that are written next, of @left at @at: to the end of the line. */
static size_t hl_line(const void *at, size_t left)
{
	return min(left, SMP_CACHE_BYTES - ((unsigned long)at & (SMP_CACHE_BYTES - 1)));
}

void *__tsan_memset(void *to, int value, size_t size);
void *__tsan_memset(void *to, int value, size_t size)
{
	size_t done, next;

	for (done = 0; done < size; done += next) {
		next = hl_line(to + done, size - done);
		hl_store(to + done);
		memset(to + done, value, next);
	}
	return to;
}

void *__tsan_memcpy(void *to, const void *from, size_t size);
void *__tsan_memcpy(void *to, const void *from, size_t size)
{
	size_t done, next;

	for (done = 0; done < size; done += next) {
		next = hl_line(to + done, size - done);
		hl_store(to + done);
		memcpy(to + done, from + done, next);
	}
	return to;
}

void *__tsan_memmove(void *to, const void *from, size_t size);
void *__tsan_memmove(void *to, const void *from, size_t size)
{
	if (to <= from || from + size <= to)
		return __tsan_memcpy(to, from, size);
	/* As one store, as it is made from its end. */
	hl_store(to);
	return memmove(to, from, size);
}
