// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The module: boots heirloom, or takes over from the predecessor's, before any subsystem asks; tells in the end
 * what was not claimed.
 */
#include <linux/cpumask.h>
#include <linux/init.h>
#include <linux/kexec_handover.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/printk.h>
#include <linux/slab.h>
#include <linux/utsname.h>
#include <linux/vmalloc.h>

#include "heirloom.h"

#undef pr_fmt
#define pr_fmt(fmt) "heirloom: " fmt

struct heirloom *hl_instance;
EXPORT_SYMBOL_GPL(hl_instance);

static unsigned int first_mb = 1;
module_param(first_mb, uint, 0444);
MODULE_PARM_DESC(first_mb, "MiB that Linux lends at first (default 1)");

static char *unclaimed = "keep";
module_param(unclaimed, charp, 0444);
MODULE_PARM_DESC(unclaimed, "What becomes of what was not claimed, when that is told: keep (default) or free");

static bool sealed;
module_param(sealed, bool, 0444);
MODULE_PARM_DESC(sealed, "Whether a handover that is not sealed is refused (default N)");

/* Tells of one thing that was not claimed. Return: whether it is kept. */
static int hl_tell(const struct heirloom_unclaimed *it, void *keep)
{
	switch (it->kind) {
	case HEIRLOOM_KIND_NAME:
		pr_info("unclaimed: name \"%s\", %llu bytes at %#llx\n", it->name, it->bytes, it->addr);
		break;
	case HEIRLOOM_KIND_SLAB:
		pr_info("unclaimed: slab of cache \"%s\", %u objects, at %#llx\n", it->name,
			it->objects, it->addr);
		break;
	case HEIRLOOM_KIND_OBJECT:
		pr_info("unclaimed: object of cache \"%s\", %llu bytes at %#llx\n", it->name,
			it->bytes, it->addr);
		break;
	default:
		pr_info("unclaimed: %llu bytes at %#llx\n", it->bytes, it->addr);
		break;
	}
	return *(bool *)keep;
}

int hl_finish_with(bool keep)
{
	struct heirloom_finished told;
	int err = heirloom_finish(hl_instance, hl_tell, &keep, &told);

	if (err)
		return err;
	pr_info("finished: unclaimed %llu names, %llu blocks (%llu pages), %llu slabs, %llu objects: %s\n",
		told.names, told.blocks, told.pages, told.slabs, told.objects,
		keep ? "kept" : "freed");
	return 0;
}

/**
 * hl_finish() - tell in the log what was preserved and not claimed, and free or keep it
 *
 * Called once every subsystem has claimed its own. What becomes of the rest says the parameter "unclaimed".
 * Context: may sleep.
 * Return: 0, or -errno.
 */
int hl_finish(void)
{
	if (!hl_instance)
		return -ENODEV;
	return hl_finish_with(strcmp(unclaimed, "free") != 0);
}
EXPORT_SYMBOL_GPL(hl_finish);

/* What heirloom begins with. */
struct hl_start {
	void *room;
	size_t room_bytes;
	struct heirloom_config config;
	struct heirloom_entry entry;
	bool revive;
	struct heirloom *instance;
	struct task_struct *task;
	/* What stopped it, or NULL. */
	const char *stopped;
	int err;
	struct completion done;
};

/* The start that is under way. */
static struct hl_start *hl_starting;

/* Begins, and tells the successor where. */
static int hl_start_with(struct hl_start *start)
{
	int err = start->revive ? heirloom_revive(start->room, start->room_bytes, &start->config,
						  &start->entry, &start->instance) :
				  heirloom_boot(start->room, start->room_bytes, &start->config,
						&start->instance);

	if (!err)
		err = heirloom_entry(start->instance, &start->entry);
	return err ?: hl_loans_tell(&start->entry);
}

/*
 * A thread of its own has all of its stack for it, and if heirloom finds itself at fault there, the thread ends where it
 * is, and the kernel goes on without heirloom: nothing is lost, as the next one finds all of it.
 */
static int hl_start(void *data)
{
	struct hl_start *start = data;

	start->task = current;
	WRITE_ONCE(hl_starting, start);
	hl_stop_begin();
	start->err = hl_start_with(start);
	hl_stop_end();
	WRITE_ONCE(hl_starting, NULL);
	complete(&start->done);
	return 0;
}

void hl_abandon(const char *why)
{
	struct hl_start *start = READ_ONCE(hl_starting);

	if (!start || start->task != current)
		return;
	WRITE_ONCE(hl_starting, NULL);
	start->stopped = why;
	start->err = -ECANCELED;
	/* Whatever it has locked is of an instance that is not used by anything any more. */
	local_irq_enable();
	while (preempt_count())
		preempt_enable();
	kthread_complete_and_exit(&start->done, 0);
}

/* Begins with the memory that is on loan. */
static int hl_begin_with(struct hl_start *start)
{
	struct heirloom_config *config = &start->config;
	struct heirloom_range span = hl_loans_span();
	struct heirloom_range *online;
	struct task_struct *thread;

	config->direct_map = __va(0);
	config->direct_map_start = 0;
	config->direct_map_bytes = span.bytes;
	config->cpus = nr_cpu_ids;
	config->seal = sealed ? HEIRLOOM_SEAL_REQUIRED : HEIRLOOM_SEAL_CHECKED;
	config->absent = &span;
	config->absent_count = 1;
	config->online_count = hl_loans_count();
	config->producer = init_utsname()->release;
	config->metadata_bytes = heirloom_metadata_bytes(&span, 1, config->cpus);
	config->metadata = vmalloc(config->metadata_bytes);
	start->room_bytes = heirloom_room_bytes();
	start->room = kzalloc(start->room_bytes, GFP_KERNEL);
	online = kvmalloc_array(config->online_count, sizeof(*online), GFP_KERNEL);
	start->err = -ENOMEM;
	if (!config->metadata || !start->room || !online)
		goto out;
	config->online = online;
	config->online_count = hl_loans_ranges(online, config->online_count);
	init_completion(&start->done);
	thread = kthread_run(hl_start, start, "heirloom");
	if (IS_ERR(thread)) {
		start->err = PTR_ERR(thread);
		goto out;
	}
	wait_for_completion(&start->done);
out:
	kvfree(online);
	if (start->err) {
		vfree(config->metadata);
		kfree(start->room);
	}
	return start->err;
}

static int __init hl_init(void)
{
	struct hl_start *start;
	int found, err;

	if (!kho_is_enabled()) {
		pr_err("no kexec handover: boot with kho=on\n");
		return -EOPNOTSUPP;
	}
	found = hl_loans_begin();
	if (found < 0) {
		pr_err("what the predecessor left cannot be taken over: %d\n", found);
		return found;
	}
	start = kzalloc(sizeof(*start), GFP_KERNEL);
	if (!start)
		return -ENOMEM;
	start->revive = found;
	if (found) {
		start->entry = hl_loans_entry();
	} else {
		err = hl_loans_grow((u64)max(first_mb, 1U) << (20 - PAGE_SHIFT));
		if (err)
			goto out;
	}
	err = hl_begin_with(start);
	if (start->stopped) {
		pr_err("%s was stopped: %s; the next kernel finds what there was\n",
		       found ? "the takeover" : "the start", start->stopped);
		goto out;
	}
	if (err) {
		char text[160];

		heirloom_error_text(text, sizeof(text));
		pr_err("%s: %s (%d)\n", found ? "the takeover ended" : "no start", text, err);
		goto out;
	}
	WRITE_ONCE(hl_instance, start->instance);
	hl_pins_begin();
	hl_view_begin();
	pr_info("%s: generation %llu, %llu pages on loan, %zu bytes of metadata\n",
		found ? "revived" : "booted", heirloom_generation(hl_instance), hl_loans_pages(),
		start->config.metadata_bytes);
out:
	kfree(start);
	return err;
}

/* No exit: what was preserved is reached through this module until the next kernel has it. */
fs_initcall_sync(hl_init); /* Built in: after Linux's handover, and before drivers. */

MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("heirloom: memory that survives a kexec");
