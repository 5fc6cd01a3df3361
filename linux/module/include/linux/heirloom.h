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
#include <linux/types.h>

#define HEIRLOOM_KERNEL
#include <heirloom.h>

/* The one instance of this kernel, for calls of heirloom.h; NULL before the module has begun. */
extern struct heirloom *hl_instance;

void *hl_kmalloc(size_t size, gfp_t gfp);
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
