// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What is to be seen, and done, below /sys/kernel/debug/heirloom.
 *
 *   stats      pages by state
 *   finish     write "free" or "keep": tells in the log what was not claimed
 *   give_back  write anything: gives empty folios back to Linux
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/seq_file.h>

#include "heirloom.h"

static int stats_show(struct seq_file *file, void *unused)
{
	struct heirloom_stats stats;
	int err = heirloom_stats(hl_instance, &stats);

	if (err)
		return err;
	seq_printf(file, "page_bytes    %llu\n", stats.page_bytes);
	seq_printf(file, "on_loan       %llu\n", hl_loans_pages());
	seq_printf(file, "free          %llu\n", stats.free);
	seq_printf(file, "cached        %llu\n", stats.cached);
	seq_printf(file, "used          %llu\n", stats.used);
	seq_printf(file, "preserved     %llu\n", stats.preserved);
	seq_printf(file, "refused_frees %llu\n", stats.refused_frees);
	seq_printf(file, "generation    %llu\n", heirloom_generation(hl_instance));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(stats);

static ssize_t finish_write(struct file *file, const char __user *from, size_t count, loff_t *at)
{
	char word[8] = "";
	int err;

	if (copy_from_user(word, from, min(count, sizeof(word) - 1)))
		return -EFAULT;
	err = hl_finish_with(strncmp(word, "free", 4) != 0);
	return err ?: count;
}

static const struct file_operations finish_fops = { .owner = THIS_MODULE, .write = finish_write };

static ssize_t give_back_write(struct file *file, const char __user *from, size_t count, loff_t *at)
{
	u64 given = hl_give_back();

	pr_info("heirloom: gave %llu pages back to Linux, %llu left\n", given, hl_loans_pages());
	return count;
}

static const struct file_operations give_back_fops = { .owner = THIS_MODULE,
						       .write = give_back_write };

void hl_view_begin(void)
{
	struct dentry *directory = debugfs_create_dir("heirloom", NULL);

	debugfs_create_file("stats", 0444, directory, NULL, &stats_fops);
	debugfs_create_file("finish", 0200, directory, NULL, &finish_fops);
	debugfs_create_file("give_back", 0200, directory, NULL, &give_back_fops);
}
