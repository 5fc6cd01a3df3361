/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Memory that survives a kexec: buffers and objects of any size, by pointer.
 *
 * A subsystem allocates with hl_kmalloc() or from a cache, preserves what must survive, and keeps the handles
 * of it in something else that it preserved, or under a name (hl_publish()). In the next kernel it claims
 * them back, hl_restore(), and frees them as ever. What was preserved and not claimed is told in the log, and
 * freed or kept: see the module's parameter "unclaimed".
 *
 * Contexts. Without more words a call may be made from tasks, softirqs and hard interrupts, but not from NMIs.
 * GFP_KERNEL and the like may sleep, and may get more memory from Linux; GFP_ATOMIC and GFP_NOWAIT get what heirloom
 * has. "May sleep" means task context alone.
 *
 * A kernel that panics hands nothing on: a crash kernel gets no handover from Linux.
 */
#ifndef LINUX_HEIRLOOM_H
#define LINUX_HEIRLOOM_H

#include <linux/gfp_types.h>
#include <linux/log2.h>
#include <linux/types.h>

#define HEIRLOOM_KERNEL
#include <heirloom.h>

/* The one instance of this kernel, for calls of heirloom.h; NULL before the module has begun. */
extern struct heirloom *hl_instance;

/*
 * What heirloom_class() returns, for a size that is known at compile time. Like all that is inline in a kernel's headers
 * it is for modules that are built with this heirloom.
 */
static __always_inline int hl_class(size_t size)
{
	const size_t fit = ALIGN(size, 16);

	if (!fit || fit > PAGE_SIZE - PAGE_SIZE / 8)
		return -1;
	if (fit <= 128)
		return fit / 8;
	return 8 * ilog2(fit - 1) + 2 * ((fit - 1) >> (ilog2(fit - 1) - 2)) - 46;
}

void *__hl_kmalloc(size_t size, gfp_t gfp);
void *__hl_kmalloc_class(size_t class, size_t size, gfp_t gfp);

/**
 * hl_kmalloc() - allocate memory that can be preserved
 * @size: bytes, not 0; whole pages from PAGE_SIZE on, and aligned to one
 * @gfp: GFP_KERNEL, GFP_ATOMIC, GFP_NOWAIT, with __GFP_ZERO if it is to be zeroed
 *
 * Context: any but NMI; may sleep if @gfp allows it.
 * Return: the memory, aligned to 16 bytes at least, or NULL.
 */
static __always_inline void *hl_kmalloc(size_t size, gfp_t gfp)
{
	if (__builtin_constant_p(size) && hl_class(size) >= 0)
		return __hl_kmalloc_class(hl_class(size), size, gfp);
	return __hl_kmalloc(size, gfp);
}

void *hl_krealloc(void *ptr, size_t size, gfp_t gfp);
void hl_kfree(const void *ptr);
size_t hl_ksize(const void *ptr);

/* Like kzalloc(). */
static inline void *hl_kzalloc(size_t size, gfp_t gfp)
{
	return hl_kmalloc(size, gfp | __GFP_ZERO);
}

int hl_preserve(void *ptr, struct heirloom_handle *handle, gfp_t gfp);
int hl_unpreserve(void *ptr);
void *hl_restore(const struct heirloom_handle *handle);

void *hl_folio_alloc(unsigned int order, gfp_t gfp);
void hl_folio_free(void *folio, unsigned int order);
int hl_folio_preserve(void *folio, unsigned int order, struct heirloom_handle *handle, gfp_t gfp);
int hl_folio_unpreserve(void *folio, unsigned int order);
void *hl_folio_restore(const struct heirloom_handle *handle, unsigned int *order);

struct heirloom_cache *hl_cache_create(const struct heirloom_cache_spec *spec);
void *hl_cache_alloc(struct heirloom_cache *cache, gfp_t gfp);
void hl_cache_free(struct heirloom_cache *cache, void *object);

int hl_publish(const char *name, const void *data, size_t size);
int hl_unpublish(const char *name);
int hl_retrieve(const char *name, void *data, size_t *size);

int hl_finish(void);

u64 hl_give_back(void);
u64 hl_on_loan(void);

#endif
