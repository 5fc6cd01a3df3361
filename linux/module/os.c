// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What heirloom asks of a kernel: to stay on a CPU, locks, and an end.
 *
 * The locks are raw: they are held for moments, with interrupts off, and nothing preempts the CPU that holds one. heirloom takes them in one order,
 * and one within another: at most three deep. To lockdep they are of one class, with the depth as subclass.
 */
#include <linux/bug.h>
#include <linux/hardirq.h>
#include <linux/irqflags.h>
#include <linux/lockdep.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/printk.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/topology.h>

#include "heirloom.h"

/* As if every CPU were in the middle of a call, until there is an instance: see hl_pins_begin(). */
DEFINE_PER_CPU(bool, hl_pinned) = true;

void hl_pins_begin(void)
{
	int cpu;

	smp_wmb(); /* hl_instance first: hl_pin() reads it after its flag, in the order in which x86 reads. */
	for_each_possible_cpu(cpu)
		WRITE_ONCE(per_cpu(hl_pinned, cpu), false);
}

int heirloom_os_pin(void)
{
	return hl_pin() ? smp_processor_id() : -1;
}

void heirloom_os_unpin(int cpu)
{
	hl_unpin();
}

u16 heirloom_os_node(u32 cpu)
{
	/* Folios are lent as if they were of one node: see hl_loans_span(). */
	return 0;
}

/* What a heirloom_lock is here. */
struct hl_lock {
	arch_spinlock_t lock;
	unsigned long flags;
};

#ifdef CONFIG_LOCKDEP
static struct lock_class_key hl_lock_key;
static struct lockdep_map hl_lock_map = STATIC_LOCKDEP_MAP_INIT("heirloom", &hl_lock_key);
static DEFINE_PER_CPU(unsigned int, hl_depth);

static void hl_acquired(bool try)
{
	unsigned int depth = this_cpu_inc_return(hl_depth) - 1;

	lock_acquire(&hl_lock_map, min(depth, MAX_LOCKDEP_SUBCLASSES - 1U), try, 0, 1, NULL, _RET_IP_);
}

static void hl_released(void)
{
	lock_release(&hl_lock_map, _RET_IP_);
	this_cpu_dec(hl_depth);
}
#else
static inline void hl_acquired(bool try) {}
static inline void hl_released(void) {}
#endif

void heirloom_os_lock(struct heirloom_lock *lock)
{
	struct hl_lock *this = (struct hl_lock *)lock;
	unsigned long flags;

	BUILD_BUG_ON(sizeof(struct hl_lock) > sizeof(struct heirloom_lock));
	local_irq_save(flags);
	preempt_disable();
	hl_acquired(false);
	arch_spin_lock(&this->lock);
	this->flags = flags;
}

int heirloom_os_try_lock(struct heirloom_lock *lock)
{
	struct hl_lock *this = (struct hl_lock *)lock;
	unsigned long flags;

	local_irq_save(flags);
	preempt_disable();
	if (!arch_spin_trylock(&this->lock)) {
		local_irq_restore(flags);
		preempt_enable();
		return 0;
	}
	hl_acquired(true);
	this->flags = flags;
	return 1;
}

void heirloom_os_unlock(struct heirloom_lock *lock)
{
	struct hl_lock *this = (struct hl_lock *)lock;
	unsigned long flags = this->flags;

	hl_released();
	arch_spin_unlock(&this->lock);
	local_irq_restore(flags);
	preempt_enable();
}

/*
 * What a heirloom_mutex is here: a place among these. An instance has a handful, each of which is locked for the first
 * time where one may sleep; a static place has its class for lockdep.
 */
#define HL_MUTEXES 32
static struct mutex hl_mutexes[HL_MUTEXES];
static struct lock_class_key hl_mutex_keys[HL_MUTEXES];
static unsigned int hl_mutexes_used;
static DEFINE_MUTEX(hl_mutexes_lock);

static struct mutex *hl_mutex(struct heirloom_mutex *mutex)
{
	struct mutex **place = (struct mutex **)mutex;
	struct mutex *found = smp_load_acquire(place); /* Pairs with the release below. */

	if (likely(found))
		return found;
	mutex_lock(&hl_mutexes_lock);
	found = *place;
	if (!found) {
		/* As many as one instance has: more would be a fault of heirloom's. */
		BUG_ON(hl_mutexes_used == HL_MUTEXES);
		found = &hl_mutexes[hl_mutexes_used];
		__mutex_init(found, "heirloom", &hl_mutex_keys[hl_mutexes_used]);
		hl_mutexes_used++;
		smp_store_release(place, found); /* Pairs with the acquire above. */
	}
	mutex_unlock(&hl_mutexes_lock);
	return found;
}

void heirloom_os_mutex_lock(struct heirloom_mutex *mutex)
{
	mutex_lock(hl_mutex(mutex));
}

int heirloom_os_mutex_try_lock(struct heirloom_mutex *mutex)
{
	return mutex_trylock(hl_mutex(mutex));
}

void heirloom_os_mutex_unlock(struct heirloom_mutex *mutex)
{
	mutex_unlock(hl_mutex(mutex));
}

int heirloom_os_may_wait(void)
{
	/* The locks keep interrupts out, but for those that cannot be. */
	return !in_nmi();
}

int heirloom_os_may_reclaim(void)
{
	return !in_interrupt() && !irqs_disabled();
}

int heirloom_os_grow(u64 frames)
{
	/* The callers in api.c know whether they may sleep, and do it. */
	return 0;
}

void heirloom_os_panic(const char *text, size_t bytes)
{
	pr_emerg("heirloom: %.*s\n", (int)bytes, text);
	hl_abandon("heirloom is at fault");
	BUG();
}
