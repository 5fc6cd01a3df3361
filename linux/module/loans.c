// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The memory that Linux lends to heirloom, folio by folio, and the list of it that the next kernel is handed.
 *
 *   KHO subtree "heirloom" --> list page --> list page ...
 *                                 |  entry, and one word a folio: address | order
 *                                 v
 *                              folios, each preserved with KHO once
 *
 * All of physical memory is one range to heirloom, absent but for what is lent. So folios of any order come and go,
 * and what Linux has to preserve is a key a folio, not one a page.
 *
 * The list is right at any instant, as the kernel may end at any: a folio is preserved before its word is written, by
 * one store, and its word is zero before it is let go. docs/src/format-heirloom.md has the format.
 */
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kexec_handover.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/printk.h>
#include <linux/slab.h>

#include "heirloom.h"

#undef pr_fmt
#define pr_fmt(fmt) "heirloom: " fmt

static unsigned int chunk_order = 8;
module_param(chunk_order, uint, 0644);
MODULE_PARM_DESC(chunk_order, "Order of the folios that are lent to heirloom at once (default 8)");

#define HL_SUBTREE "heirloom"
#define HL_MAGIC 0x4e414f4c52494548ULL /* "HEIRLOAN" */
#define HL_VERSION 1

/* A page of the list. Little endian. */
struct hl_list {
	__le64 magic;
	__le32 version;
	__le32 page_shift;
	__le64 next; /* physical address of the next page, or 0 */
	/* In the first page: see struct heirloom_entry. */
	__le64 root;
	__le64 scratch;
	__le64 scratch_bytes;
	__le64 reserved[2];
	__le64 folios[]; /* address | order, or 0 */
};

#define HL_WORDS ((PAGE_SIZE - sizeof(struct hl_list)) / sizeof(__le64))
#define HL_ORDER(word) ((unsigned int)((word) & ~PAGE_MASK))

static struct hl_list *hl_first;
/* The pages before this one are full. */
static struct hl_list *hl_room;
static bool hl_published;
static u64 hl_pages;
/* Held to change the list. */
static DEFINE_MUTEX(hl_list_lock);

/* Goes through all words of the list, free places too. */
#define for_each_word(list, word)                                                  \
	for (list = hl_first; list; list = hl_next(list))                          \
		for (word = list->folios; word < list->folios + HL_WORDS; word++)

static struct hl_list *hl_next(const struct hl_list *list)
{
	u64 next = le64_to_cpu(list->next);

	return next ? phys_to_virt(next) : NULL;
}

static struct hl_list *hl_new_page(void)
{
	struct hl_list *list = kho_alloc_preserve(PAGE_SIZE);

	if (IS_ERR(list))
		return NULL;
	clear_page(list);
	list->magic = cpu_to_le64(HL_MAGIC);
	list->version = cpu_to_le32(HL_VERSION);
	list->page_shift = cpu_to_le32(PAGE_SHIFT);
	return list;
}

/* Finds a free place in the list, in a new page if need be. */
static __le64 *hl_place(void)
{
	struct hl_list *list, *last = NULL;
	__le64 *word;

	for (list = hl_room ?: hl_first; list; list = hl_next(list)) {
		last = list;
		hl_room = list;
		for (word = list->folios; word < list->folios + HL_WORDS; word++)
			if (!*word)
				return word;
	}
	list = hl_new_page();
	if (!list)
		return NULL;
	if (last)
		smp_store_release(&last->next, cpu_to_le64(virt_to_phys(list))); /* whole before it is reached */
	else
		hl_first = list;
	return list->folios;
}

struct heirloom_range hl_loans_span(void)
{
	/* What lies in holes, or is never lent, stays absent. */
	u64 end = __pa((unsigned long)high_memory - 1) + 1;

	return (struct heirloom_range){ .start = 0, .bytes = PAGE_ALIGN_DOWN(end) };
}

/* Restores a folio, and preserves it again. */
static int hl_take_back(u64 word)
{
	u64 phys = word & PAGE_MASK;
	struct folio *folio = kho_restore_folio(phys);
	int err;

	if (!folio)
		return -ENOENT;
	err = folio_order(folio) == HL_ORDER(word) ? kho_preserve_folio(folio) : -EUCLEAN;
	if (err)
		pr_err("the folio at %#llx is not handed on: %d\n", phys, err);
	return err;
}

/* Restores a page of the list, and preserves it again. */
static struct hl_list *hl_take_list(u64 phys)
{
	struct hl_list *list;
	struct page *page;

	if (!IS_ALIGNED(phys, PAGE_SIZE) || !pfn_valid(PHYS_PFN(phys)))
		return NULL;
	page = kho_restore_pages(phys, 1);
	if (!page)
		return NULL;
	list = page_address(page);
	if (le64_to_cpu(list->magic) != HL_MAGIC || le32_to_cpu(list->version) != HL_VERSION ||
	    le32_to_cpu(list->page_shift) != PAGE_SHIFT) {
		pr_err("the list at %#llx is of another version\n", phys);
		return NULL;
	}
	return kho_preserve_pages(page, 1) ? NULL : list;
}

int hl_loans_begin(void)
{
	struct hl_list *list;
	phys_addr_t phys;
	__le64 *word;
	int err;

	err = kho_retrieve_subtree(HL_SUBTREE, &phys, NULL);
	if (err == -ENOENT)
		return 0;
	if (err)
		return err;
	hl_first = hl_take_list(phys);
	for (list = hl_first; list && list->next; list = hl_next(list))
		if (!hl_take_list(le64_to_cpu(list->next)))
			return -EUCLEAN;
	if (!hl_first)
		return -EUCLEAN;
	for_each_word(list, word) {
		u64 is = le64_to_cpu(*word);

		if (!is)
			continue;
		err = hl_take_back(is);
		if (err)
			return err;
		hl_pages += 1ULL << HL_ORDER(is);
	}
	err = kho_add_subtree(HL_SUBTREE, hl_first, PAGE_SIZE);
	hl_published = !err;
	return err ?: 1;
}

size_t hl_loans_count(void)
{
	struct hl_list *list;
	size_t count = 0;
	__le64 *word;

	for_each_word(list, word)
		count += !!*word;
	return count;
}

size_t hl_loans_ranges(struct heirloom_range *ranges, size_t room)
{
	struct hl_list *list;
	size_t count = 0;
	__le64 *word;

	for_each_word(list, word) {
		u64 is = le64_to_cpu(*word);

		if (is && count < room)
			ranges[count++] = (struct heirloom_range){
				.start = is & PAGE_MASK,
				.bytes = PAGE_SIZE << HL_ORDER(is),
			};
	}
	return count;
}

/* Enters a folio in the list, preserved. */
static int hl_enter(struct folio *folio)
{
	u64 phys = PFN_PHYS(folio_pfn(folio));
	__le64 *place = hl_place();
	int err;

	if (!place)
		return -ENOMEM;
	err = kho_preserve_folio(folio);
	if (err)
		return err;
	smp_store_release(place, cpu_to_le64(phys | folio_order(folio))); /* preserved before it is named */
	hl_pages += folio_nr_pages(folio);
	return 0;
}

/* Strikes a folio out of the list, and gives it back to Linux. */
static void hl_strike_out(__le64 *place, struct folio *folio)
{
	WRITE_ONCE(*place, 0);
	smp_wmb(); /* No longer named before it is let go. */
	hl_room = hl_first;
	hl_pages -= folio_nr_pages(folio);
	kho_unpreserve_folio(folio);
	folio_put(folio);
}

int hl_loans_grow(u64 frames)
{
	unsigned int least = frames > 1 ? fls64(frames - 1) : 0;
	unsigned int order = max(least, min_t(unsigned int, chunk_order, MAX_PAGE_ORDER));
	struct heirloom_range range;
	struct folio *folio = NULL;
	int err;

	if (least > MAX_PAGE_ORDER)
		return -ENOMEM;
	might_sleep();
	for (; !folio; order--) {
		gfp_t gfp = order > least ? GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN : GFP_KERNEL;

		folio = folio_alloc(gfp, order);
		if (order == least)
			break;
	}
	if (!folio)
		return -ENOMEM;
	mutex_lock(&hl_list_lock);
	err = hl_enter(folio);
	range = (struct heirloom_range){
		.start = PFN_PHYS(folio_pfn(folio)),
		.bytes = folio_size(folio),
	};
	if (err) {
		folio_put(folio);
	} else if (hl_instance) {
		err = heirloom_online(hl_instance, &range);
		WARN_ON_ONCE(err);
	}
	mutex_unlock(&hl_list_lock);
	return err;
}

u64 hl_loans_give_back(void)
{
	struct hl_list *list;
	u64 before;
	__le64 *word;

	mutex_lock(&hl_list_lock);
	before = hl_pages;
	for_each_word(list, word) {
		u64 is = le64_to_cpu(*word);
		struct heirloom_range range = {
			.start = is & PAGE_MASK,
			.bytes = PAGE_SIZE << HL_ORDER(is),
		};

		if (is && !heirloom_offline(hl_instance, &range))
			hl_strike_out(word, pfn_folio(PHYS_PFN(range.start)));
	}
	before -= hl_pages;
	mutex_unlock(&hl_list_lock);
	return before;
}

struct heirloom_entry hl_loans_entry(void)
{
	return (struct heirloom_entry){
		.root = le64_to_cpu(hl_first->root),
		.scratch = le64_to_cpu(hl_first->scratch),
		.scratch_bytes = le64_to_cpu(hl_first->scratch_bytes),
	};
}

int hl_loans_tell(const struct heirloom_entry *entry)
{
	int err;

	hl_stop_store(false);
	hl_first->scratch = cpu_to_le64(entry->scratch);
	hl_stop_store(false);
	hl_first->scratch_bytes = cpu_to_le64(entry->scratch_bytes);
	hl_stop_store(true);
	/* The list and its scratch are whole before the root is told. */
	smp_store_release(&hl_first->root, cpu_to_le64(entry->root));
	if (hl_published)
		return 0;
	err = kho_add_subtree(HL_SUBTREE, hl_first, PAGE_SIZE);
	hl_published = !err;
	return err;
}

u64 hl_loans_pages(void)
{
	return READ_ONCE(hl_pages);
}
