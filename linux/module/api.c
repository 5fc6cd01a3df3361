// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What subsystems call: heirloom's own calls, with the contexts that Linux has.
 *
 * Where memory has run out and the caller may sleep, Linux lends more, and the call is made again. heirloom itself is
 * never asked to sleep.
 */
#include <linux/cpu.h>
#include <linux/export.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/ratelimit.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/workqueue.h>

#include "heirloom.h"

/*
 * How often Linux is asked for more in one call. Once is enough, unless other CPUs take all of it; and a call that fails
 * for another reason, which a null pointer does not tell, must come to an end.
 */
#define HL_TRIES 4

/* Whether it is worth to try again, for @size bytes. */
static bool hl_more(int err, size_t size, gfp_t gfp)
{
	return err == -ENOMEM && gfpflags_allow_blocking(gfp) &&
	       !hl_loans_grow(max_t(u64, DIV_ROUND_UP(size, PAGE_SIZE), 1));
}

/* Tells why memory is not freed: it stays. */
static noinline void hl_not_freed(const void *ptr)
{
	char text[160];

	heirloom_error_text(text, sizeof(text));
	WARN_RATELIMIT(true, "heirloom: %p is not freed: %s\n", ptr, text);
}

/* Calls @call until it succeeds, or there is no more memory to be had. */
#define HL_RETRY(call, size, gfp)                                                          \
	({                                                                                 \
		int __err, __tries = 0;                                                    \
		do {                                                                       \
			__err = (call);                                                    \
		} while (__err && __tries++ < HL_TRIES && hl_more(__err, size, gfp));       \
		__err;                                                                     \
	})

/* Does the same for what returns a pointer. */
#define HL_RETRY_PTR(call, size, gfp)                                         \
	({                                                                    \
		void *__ptr;                                                  \
		int __tries = 0;                                              \
		do {                                                          \
			__ptr = (call);                                       \
		} while (unlikely(!__ptr) && __tries++ < HL_TRIES &&            \
		       hl_more(-ENOMEM, size, gfp));                          \
		__ptr;                                                        \
	})

/*
 * What a CPU has at hand it gives and takes within a few instructions, so the calls for it are pinned here, inline. They do
 * nothing where more is to be done than that; then heirloom's own calls do it, out of line.
 */

static noinline void *hl_kmalloc_slow(size_t size, gfp_t gfp)
{
	struct heirloom *h = hl_instance;

	if (unlikely(!h || !size))
		return NULL;
	if (gfp & __GFP_ZERO)
		return HL_RETRY_PTR(heirloom_zalloc(h, size), size, gfp);
	return HL_RETRY_PTR(heirloom_alloc(h, size), size, gfp);
}

static noinline void hl_kfree_slow(void *ptr)
{
	if (ptr && unlikely(heirloom_free(hl_instance, ptr)))
		hl_not_freed(ptr);
}

static noinline void *hl_cache_alloc_slow(struct heirloom_cache *cache, gfp_t gfp)
{
	if (gfp & __GFP_ZERO)
		return HL_RETRY_PTR(heirloom_cache_zalloc(cache), 0, gfp);
	return HL_RETRY_PTR(heirloom_cache_alloc(cache), 0, gfp);
}

static noinline void hl_cache_free_slow(struct heirloom_cache *cache, void *object)
{
	if (object && unlikely(heirloom_cache_free(cache, object)))
		hl_not_freed(object);
}

/* What hl_kmalloc() does for a size that only the caller knows. */
void *__hl_kmalloc(size_t size, gfp_t gfp)
{
	if (likely(size < PAGE_SIZE && hl_pin())) {
		void *ptr = heirloom_pinned_alloc(hl_instance, smp_processor_id(), size);

		hl_unpin();
		if (likely(ptr))
			return gfp & __GFP_ZERO ? memset(ptr, 0, size) : ptr;
	}
	return hl_kmalloc_slow(size, gfp);
}
EXPORT_SYMBOL_GPL(__hl_kmalloc);

/* What hl_kmalloc() does for a size whose class is known at compile time. */
void *__hl_kmalloc_class(size_t class, size_t size, gfp_t gfp)
{
	if (likely(hl_pin())) {
		void *ptr = heirloom_pinned_alloc_class(hl_instance, smp_processor_id(), class);

		hl_unpin();
		if (likely(ptr))
			return gfp & __GFP_ZERO ? memset(ptr, 0, size) : ptr;
	}
	return hl_kmalloc_slow(size, gfp);
}
EXPORT_SYMBOL_GPL(__hl_kmalloc_class);

/**
 * hl_krealloc() - change the size of memory, which may move
 * @ptr: from hl_kmalloc(), not preserved, or NULL
 * @size: bytes
 * @gfp: as for hl_kmalloc(); what is beyond the old size is not zeroed
 *
 * Context: as for hl_kmalloc().
 * Return: the memory, or NULL: then @ptr is as it was.
 */
void *hl_krealloc(void *ptr, size_t size, gfp_t gfp)
{
	if (unlikely(!hl_instance || !size))
		return NULL;
	return HL_RETRY_PTR(heirloom_realloc(hl_instance, ptr, size), size, gfp);
}
EXPORT_SYMBOL_GPL(hl_krealloc);

/**
 * hl_kfree() - free memory
 * @ptr: from hl_kmalloc() or hl_restore(), or NULL; no longer preserved, unless it was preserved from birth or restored
 *
 * What cannot be freed stays, with a warning that says why.
 *
 * Context: any but NMI.
 */
void hl_kfree(const void *ptr)
{
	/* What begins with a page is whole pages, most often; NULL does too. */
	if (likely(offset_in_page(ptr) && hl_pin())) {
		int freed = heirloom_pinned_free(hl_instance, smp_processor_id(), (void *)ptr);

		hl_unpin();
		if (likely(freed))
			return;
	}
	hl_kfree_slow((void *)ptr);
}
EXPORT_SYMBOL_GPL(hl_kfree);

/**
 * hl_ksize() - tell how many bytes there are
 * @ptr: from hl_kmalloc() or hl_restore()
 *
 * Context: any but NMI.
 * Return: bytes that may be used, or 0 where it is none of heirloom's.
 */
size_t hl_ksize(const void *ptr)
{
	return heirloom_usable_size(hl_instance, ptr);
}
EXPORT_SYMBOL_GPL(hl_ksize);

/**
 * hl_preserve() - let memory survive a kexec
 * @ptr: from hl_kmalloc(), hl_cache_alloc() or hl_restore()
 * @handle: what names it in the next kernel, or NULL
 * @gfp: whether more memory may be waited for: now and then a page is needed
 *
 * From now on it is refused to be freed, until hl_unpreserve().
 *
 * Context: any but NMI; may sleep if @gfp allows it.
 * Return: 0, -EALREADY if it is preserved already, or another -errno.
 */
int hl_preserve(void *ptr, struct heirloom_handle *handle, gfp_t gfp)
{
	return HL_RETRY(heirloom_preserve(hl_instance, ptr, handle), 0, gfp);
}
EXPORT_SYMBOL_GPL(hl_preserve);

/**
 * hl_unpreserve() - let memory no longer survive
 * @ptr: as for hl_preserve()
 *
 * Context: any but NMI.
 * Return: 0 or -errno.
 */
int hl_unpreserve(void *ptr)
{
	return heirloom_unpreserve(hl_instance, ptr);
}
EXPORT_SYMBOL_GPL(hl_unpreserve);

/**
 * hl_restore() - claim memory that the previous kernel preserved; once
 * @handle: from hl_preserve() there
 *
 * It is the caller's from now on, preserved still, and freed by hl_kfree().
 *
 * Context: may sleep.
 * Return: the memory, or NULL: see heirloom_last_error().
 */
void *hl_restore(const struct heirloom_handle *handle)
{
	return heirloom_restore(hl_instance, handle);
}
EXPORT_SYMBOL_GPL(hl_restore);

/**
 * hl_folio_alloc() - allocate pages that can be preserved
 * @order: of how many: 1 << @order, aligned to as many; MAX_PAGE_ORDER at most, as Linux lends no more in a row
 * @gfp: as for hl_kmalloc()
 *
 * For those that know what they have: not looked up by its pointer, a folio takes fewer instructions than memory of any size.
 *
 * Context: any but NMI; may sleep if @gfp allows it.
 * Return: the first page's memory, or NULL.
 */
void *hl_folio_alloc(unsigned int order, gfp_t gfp)
{
	if (unlikely(!hl_instance || order > MAX_PAGE_ORDER))
		return NULL;
	return HL_RETRY_PTR(heirloom_folio_alloc(hl_instance, order, gfp & __GFP_ZERO ? HEIRLOOM_ZEROED : 0),
			    PAGE_SIZE << order, gfp);
}
EXPORT_SYMBOL_GPL(hl_folio_alloc);

/**
 * hl_folio_free() - free pages
 * @folio: from hl_folio_alloc() or hl_folio_restore(), no longer preserved, or NULL
 * @order: as it was allocated
 *
 * What cannot be freed stays, with a warning that says why.
 *
 * Context: any but NMI.
 */
void hl_folio_free(void *folio, unsigned int order)
{
	if (unlikely(heirloom_folio_free(hl_instance, folio, order)))
		hl_not_freed(folio);
}
EXPORT_SYMBOL_GPL(hl_folio_free);

/**
 * hl_folio_preserve() - let pages survive a kexec
 * @folio: from hl_folio_alloc()
 * @order: as it was allocated
 * @handle: what names it in the next kernel, or NULL
 * @gfp: as for hl_preserve()
 *
 * Context: as for hl_preserve().
 * Return: 0, -EALREADY if it is preserved already, or another -errno.
 */
int hl_folio_preserve(void *folio, unsigned int order, struct heirloom_handle *handle, gfp_t gfp)
{
	return HL_RETRY(heirloom_folio_preserve(hl_instance, folio, order, handle), 0, gfp);
}
EXPORT_SYMBOL_GPL(hl_folio_preserve);

/**
 * hl_folio_unpreserve() - let pages no longer survive
 * @folio: as for hl_folio_preserve(), or from hl_folio_restore()
 * @order: as it was allocated
 *
 * Context: any but NMI.
 * Return: 0 or -errno.
 */
int hl_folio_unpreserve(void *folio, unsigned int order)
{
	return heirloom_folio_unpreserve(hl_instance, folio, order);
}
EXPORT_SYMBOL_GPL(hl_folio_unpreserve);

/**
 * hl_folio_restore() - claim pages that the previous kernel preserved; once
 * @handle: from hl_folio_preserve() there
 * @order: of how many, or NULL
 *
 * Context: may sleep.
 * Return: the first page's memory, preserved still, or NULL: see heirloom_last_error().
 */
void *hl_folio_restore(const struct heirloom_handle *handle, unsigned int *order)
{
	return heirloom_folio_restore(hl_instance, handle, order);
}
EXPORT_SYMBOL_GPL(hl_folio_restore);

/**
 * hl_cache_create() - make a cache, or adopt the previous kernel's of this name
 * @spec: what it is like
 *
 * In one that was adopted, what was preserved is there to be claimed: hl_restore().
 *
 * Context: may sleep.
 * Return: the cache, or NULL: see heirloom_last_error().
 */
struct heirloom_cache *hl_cache_create(const struct heirloom_cache_spec *spec)
{
	return HL_RETRY_PTR(heirloom_cache_adopt(hl_instance, spec, NULL), 0,
			    heirloom_last_error() == HEIRLOOM_ERROR_OUT_OF_MEMORY ? GFP_KERNEL : 0);
}
EXPORT_SYMBOL_GPL(hl_cache_create);

/**
 * hl_cache_alloc() - allocate an object
 * @cache: from hl_cache_create()
 * @gfp: as for hl_kmalloc()
 *
 * Context: as for hl_kmalloc().
 * Return: the object, or NULL.
 */
void *hl_cache_alloc(struct heirloom_cache *cache, gfp_t gfp)
{
	if (likely(!(gfp & __GFP_ZERO) && hl_pin())) {
		void *object = heirloom_cache_pinned_alloc(cache, smp_processor_id());

		hl_unpin();
		if (likely(object))
			return object;
	}
	return hl_cache_alloc_slow(cache, gfp);
}
EXPORT_SYMBOL_GPL(hl_cache_alloc);

/**
 * hl_cache_free() - free an object
 * @cache: its cache
 * @object: from hl_cache_alloc() or hl_restore(), or NULL
 *
 * Context: any but NMI.
 */
void hl_cache_free(struct heirloom_cache *cache, void *object)
{
	if (likely(hl_pin())) {
		int freed = heirloom_cache_pinned_free(cache, smp_processor_id(), object);

		hl_unpin();
		if (likely(freed))
			return;
	}
	hl_cache_free_slow(cache, object);
}
EXPORT_SYMBOL_GPL(hl_cache_free);

/**
 * hl_publish() - leave bytes under a name for the next kernel
 * @name: at most 31 characters
 * @data: the bytes, which are copied; what stood under the name is replaced
 * @size: how many
 *
 * Context: may sleep.
 * Return: 0 or -errno.
 */
int hl_publish(const char *name, const void *data, size_t size)
{
	return HL_RETRY(heirloom_publish(hl_instance, name, data, size), size, GFP_KERNEL);
}
EXPORT_SYMBOL_GPL(hl_publish);

/**
 * hl_unpublish() - take a name back
 * @name: from hl_publish(), or from the previous kernel, retrieved
 *
 * Context: may sleep.
 * Return: 0 or -errno.
 */
int hl_unpublish(const char *name)
{
	return heirloom_unpublish(hl_instance, name);
}
EXPORT_SYMBOL_GPL(hl_unpublish);

/**
 * hl_retrieve() - read what the previous kernel left under a name; once
 * @name: the name
 * @data: room for it
 * @size: bytes of room; then of what there is
 *
 * Context: may sleep.
 * Return: 0, -ENOENT if there is nothing of that name, -ENOSPC if the room is too small, or another -errno.
 */
int hl_retrieve(const char *name, void *data, size_t *size)
{
	return heirloom_retrieve(hl_instance, name, data, size);
}
EXPORT_SYMBOL_GPL(hl_retrieve);

static long hl_shrink(void *unused)
{
	return heirloom_shrink(hl_instance) > 0;
}

/**
 * hl_give_back() - give the memory that heirloom does not need back to Linux
 *
 * In whole folios as they were lent: one that has a page in use stays.
 *
 * Context: may sleep.
 * Return: the pages that were given back.
 */
u64 hl_give_back(void)
{
	int cpu;

	if (!hl_instance)
		return 0;
	/* What each CPU has at hand is free, but only it can tell. */
	cpus_read_lock();
	for_each_online_cpu(cpu)
		work_on_cpu(cpu, hl_shrink, NULL);
	cpus_read_unlock();
	return hl_loans_give_back();
}
EXPORT_SYMBOL_GPL(hl_give_back);

/**
 * hl_on_loan() - tell how much memory Linux lends to heirloom
 *
 * Context: any.
 * Return: pages.
 */
u64 hl_on_loan(void)
{
	return hl_loans_pages();
}
EXPORT_SYMBOL_GPL(hl_on_loan);
