// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What heirloom and Linux's own allocators cost, side by side, in time: in instructions, where the machine's clock counts
 * those (QEMU's -icount shift=0).
 *
 * The first life measures pairs of calls, and preserves pages that are no neighbours, with heirloom or with Linux's
 * kexec handover. The second measures how long it took to come to life, and to have the pages back.
 *
 * What it says is one line for each: "bench: NAME: TIME for COUNT".
 */
#include <linux/gfp.h>
#include <linux/kexec_handover.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <asm/tsc.h>

#include <linux/heirloom.h>

#undef pr_fmt
#define pr_fmt(fmt) "bench: " fmt

/* Whether pairs are measured. */
static bool pairs;
module_param(pairs, bool, 0444);
/* How many pages, that are no neighbours, are preserved for the second life. */
static unsigned int pages;
module_param(pages, uint, 0444);
/* Whether Linux's kexec handover preserves them. */
static bool kho;
module_param(kho, bool, 0444);
/* Whether there is to be a next life. */
static bool next;
module_param(next, bool, 0444);

#define BATCH 512
#define ROUNDS 12

static void *batch[BATCH];

static void say(const char *name, u64 time, unsigned int count)
{
	pr_info("%s: %llu for %u\n", name, time, count);
}

/* The least that @work, for each @i of a batch, took in any round; @after, for each, is not measured. */
#define LEAST(work, after)                                    \
	({                                                    \
		u64 __least = U64_MAX;                        \
		unsigned int __round, i;                      \
		for (__round = 0; __round < ROUNDS; __round++) { \
			u64 __begin = ktime_get_ns();         \
			for (i = 0; i < BATCH; i++)           \
				work;                         \
			__least = min(__least, ktime_get_ns() - __begin); \
			for (i = 0; i < BATCH; i++)           \
				after;                        \
		}                                             \
		__least;                                      \
	})

/* The least that a batch of @alloc and one of @release took. */
#define PAIRS(name, alloc, release)                                     \
	do {                                                            \
		u64 __least = U64_MAX;                                  \
		unsigned int __round, i;                                \
		for (__round = 0; __round < ROUNDS; __round++) {        \
			u64 __begin = ktime_get_ns();                   \
			for (i = 0; i < BATCH; i++)                     \
				batch[i] = alloc;                       \
			for (i = 0; i < BATCH; i++)                     \
				release;                                \
			__least = min(__least, ktime_get_ns() - __begin); \
		}                                                       \
		say(name, __least, BATCH);                              \
	} while (0)

static int measure_pairs(void)
{
	struct heirloom_cache_spec plain = { .name = "bench-plain", .size = 64 };
	struct heirloom_cache_spec preserving = {
		.name = "bench-preserving",
		.size = 64,
		.flags = HEIRLOOM_CACHE_PRESERVING,
	};
	struct kmem_cache *theirs = kmem_cache_create("bench-64", 64, 0, SLAB_NO_MERGE, NULL);
	struct heirloom_cache *ours = hl_cache_create(&plain), *kept = hl_cache_create(&preserving);

	if (!theirs || !ours || !kept)
		return -ENOMEM;
	PAIRS("kmalloc 64", kmalloc(64, GFP_KERNEL), kfree(batch[i]));
	PAIRS("hl_kmalloc 64", hl_kmalloc(64, GFP_KERNEL), hl_kfree(batch[i]));
	PAIRS("kmalloc 200", kmalloc(200, GFP_KERNEL), kfree(batch[i]));
	PAIRS("hl_kmalloc 200", hl_kmalloc(200, GFP_KERNEL), hl_kfree(batch[i]));
	PAIRS("kmem_cache 64", kmem_cache_alloc(theirs, GFP_KERNEL), kmem_cache_free(theirs, batch[i]));
	PAIRS("hl_cache 64", hl_cache_alloc(ours, GFP_KERNEL), hl_cache_free(ours, batch[i]));
	PAIRS("hl_cache 64 preserving", hl_cache_alloc(kept, GFP_KERNEL), hl_cache_free(kept, batch[i]));
	PAIRS("alloc_page", alloc_page(GFP_KERNEL), __free_page(batch[i]));
	PAIRS("hl_kmalloc 4096", hl_kmalloc(PAGE_SIZE, GFP_KERNEL), hl_kfree(batch[i]));
	PAIRS("hl_folio 0", hl_folio_alloc(0, GFP_KERNEL), hl_folio_free(batch[i], 0));
	kmem_cache_destroy(theirs);
	return 0;
}

static void measure_preserving(void)
{
	int failed = 0;
	u64 least;
	unsigned int at;

	for (at = 0; at < BATCH; at++)
		batch[at] = folio_alloc(GFP_KERNEL, 0);
	least = LEAST(failed |= kho_preserve_folio(batch[i]),
		      kho_unpreserve_folio(batch[i]));
	say("kho_preserve_folio", least, BATCH);
	for (at = 0; at < BATCH; at++)
		folio_put(batch[at]);
	for (at = 0; at < BATCH; at++)
		batch[at] = hl_kmalloc(PAGE_SIZE, GFP_KERNEL);
	least = LEAST(failed |= hl_preserve(batch[i], NULL, GFP_KERNEL), failed |= hl_unpreserve(batch[i]));
	say("hl_preserve 4096", least, BATCH);
	for (at = 0; at < BATCH; at++)
		hl_kfree(batch[at]);
	for (at = 0; at < BATCH; at++)
		batch[at] = hl_folio_alloc(0, GFP_KERNEL);
	least = LEAST(failed |= hl_folio_preserve(batch[i], 0, NULL, GFP_KERNEL),
		      failed |= hl_folio_unpreserve(batch[i], 0));
	say("hl_folio_preserve 0", least, BATCH);
	for (at = 0; at < BATCH; at++)
		hl_folio_free(batch[at], 0);
	if (failed)
		pr_err("FAULT preserving: %d\n", failed);
}

/* What the second life is told. */
struct root {
	struct heirloom_handle list;
	u64 count;
	u64 kho;
	u64 clock;
};

/* Preserves one of heirloom's pages. */
static int preserve_ours(struct heirloom_handle *place)
{
	void *page = hl_kmalloc(PAGE_SIZE, GFP_KERNEL), *other = hl_kmalloc(PAGE_SIZE, GFP_KERNEL);

	if (!page || !other)
		return -ENOMEM;
	if (((unsigned long)page >> PAGE_SHIFT) % 2)
		swap(page, other);
	return hl_preserve(page, place, GFP_KERNEL);
}

/* Preserves one page; @place tells the next life which. */
static int preserve_one(struct heirloom_handle *place)
{
	if (kho) {
		struct folio *folio = folio_alloc(GFP_KERNEL, 0), *other = folio_alloc(GFP_KERNEL, 0);

		if (!folio || !other)
			return -ENOMEM;
		/* Of two neighbours one. */
		if (folio_pfn(folio) % 2)
			swap(folio, other);
		memcpy(place, &(u64){ PFN_PHYS(folio_pfn(folio)) }, sizeof(u64));
		return kho_preserve_folio(folio);
	}
	return preserve_ours(place);
}

static int first_life(void)
{
	struct root root = { .count = pages, .kho = kho };
	struct heirloom_handle *list;
	unsigned int at;
	int err = 0;

	if (pairs) {
		err = measure_pairs();
		measure_preserving();
	}
	list = hl_kmalloc(max(pages, 1U) * sizeof(*list), GFP_KERNEL);
	if (!list)
		return -ENOMEM;
	for (at = 0; at < pages && !err; at++)
		err = preserve_one(&list[at]);
	err = err ?: hl_preserve(list, &root.list, GFP_KERNEL);
	root.clock = rdtsc();
	err = err ?: hl_publish("bench", &root, sizeof(root));
	next = !err;
	return err;
}

static int second_life(const struct root *root)
{
	u64 now = rdtsc(), begin;
	struct heirloom_handle *list = hl_restore(&root->list);
	unsigned int at, lost = 0;

	say(root->kho ? "boot with kho" : "boot with heirloom", now - root->clock, root->count);
	if (!list)
		return -ENOENT;
	begin = ktime_get_ns();
	if (root->kho) {
		for (at = 0; at < root->count; at++)
			lost += !kho_restore_folio(*(u64 *)&list[at]);
	} else {
		for (at = 0; at < root->count; at++)
			lost += !hl_restore(&list[at]);
	}
	say(root->kho ? "kho_restore_folio" : "hl_restore", ktime_get_ns() - begin, root->count);
	if (lost)
		pr_err("FAULT %u pages are lost\n", lost);
	return 0;
}

static int __init bench_init(void)
{
	struct root root;
	size_t size = sizeof(root);
	int err = hl_instance ? hl_retrieve("bench", &root, &size) : -ENODEV;

	if (!err)
		return second_life(&root);
	return err == -ENOENT ? first_life() : err;
}
late_initcall(bench_init);

MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("heirloom: what it costs, beside Linux's own");
