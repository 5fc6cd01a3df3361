/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What the module's own files share: see linux/heirloom.h for what subsystems call.
 */
#ifndef HEIRLOOM_MODULE_H
#define HEIRLOOM_MODULE_H

#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/types.h>

#include <linux/heirloom.h>

/* os.c: whether a call on this CPU has its number. */
DECLARE_PER_CPU(bool, hl_pinned);

/* From here on hl_pin() can succeed: hl_instance is set. Before, calls go without a CPU's number, those of the start too. */
void hl_pins_begin(void);

/**
 * hl_pin() - stay on this CPU, as heirloom_os_pin() does
 *
 * Return: whether it does: not in the middle of a call on this CPU that has its number, and not without hl_instance.
 */
static __always_inline bool hl_pin(void)
{
	preempt_disable();
	/* An interrupt between the two gives the number back before it returns. */
	if (unlikely(this_cpu_read(hl_pinned))) {
		preempt_enable();
		return false;
	}
	this_cpu_write(hl_pinned, true);
	barrier();
	return true;
}

/* Ends what hl_pin() began, where it returned true. */
static __always_inline void hl_unpin(void)
{
	barrier();
	this_cpu_write(hl_pinned, false);
	preempt_enable();
}

/* loans.c: the memory that Linux lends. */

/**
 * hl_loans_begin() - begin with no memory on loan, or with what the predecessor had
 *
 * What the predecessor had is preserved again, and its list published again, before anything else is done
 * with it: whatever becomes of this kernel, the next one finds it.
 *
 * Return: 1 where there was a predecessor, 0 where there was none, or -errno.
 */
int hl_loans_begin(void);

/* The runs on loan, for heirloom to bring online: @ranges has room for hl_loans_count(). */
size_t hl_loans_count(void);
size_t hl_loans_ranges(struct heirloom_range *ranges, size_t room);

/* Gets a folio for @frames frames in a row at least. May sleep. Once heirloom runs, brings it online. */
int hl_loans_grow(u64 frames);

/* Gives back the folios that are empty. May sleep. Return: the pages that were given back. */
u64 hl_loans_give_back(void);

/* What the successor is told. */
struct heirloom_entry hl_loans_entry(void);
/* Tells the successor of @entry, and publishes the list if it is new. */
int hl_loans_tell(const struct heirloom_entry *entry);

/* Pages on loan. */
u64 hl_loans_pages(void);

/* All physical memory that heirloom could be lent. */
struct heirloom_range hl_loans_span(void);

/* view.c: what is to be seen in debugfs. */
void hl_view_begin(void);

/* stop.c: where a test ends a takeover, in a module that is built with HEIRLOOM_STOP. */

#ifdef HEIRLOOM_STOP
/* From here on to hl_stop_end() the stores of this task that outlive it are counted, and one is not made. */
void hl_stop_begin(void);
void hl_stop_end(void);
/* Is called before a store of the glue's, and before the last one of all. */
void hl_stop_store(bool last);
#else
static inline void hl_stop_begin(void) {}
static inline void hl_stop_end(void) {}
static inline void hl_stop_store(bool last) {}
#endif

/* main.c */

/* Ends the start of heirloom, if this is its thread, and does not return then: there is no heirloom in this kernel. */
void hl_abandon(const char *why);

/* Tells what was not claimed, in the log, and frees or keeps it as @keep says. */
int hl_finish_with(bool keep);

#endif
