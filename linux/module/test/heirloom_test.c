// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A subsystem that lives on: sessions in a cache, a buffer for each, pages, names. It begins in the first kernel, claims
 * in each later one what it had, compares every byte, frees half and makes it anew.
 *
 * The list of what it has is linked by handles: the name "sessions" leads to the first session, and each to the next.
 */
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/prandom.h>
#include <linux/slab.h>
#include <linux/smp.h>

#include <linux/heirloom.h>

#undef pr_fmt
#define pr_fmt(fmt) "subsystem: " fmt

static unsigned int lives = 3;
module_param(lives, uint, 0444);
static unsigned int sessions = 4000;
module_param(sessions, uint, 0444);
static unsigned int stress_ms = 1000;
module_param(stress_ms, uint, 0444);
/* Whether the jump comes in the middle of traffic. */
static bool traffic;
module_param(traffic, bool, 0444);
static bool sealed;
module_param(sealed, bool, 0444);
/* Whether there is to be a next life. */
static bool next;
module_param(next, bool, 0444);

/* How much is had once, freed, and given back to Linux. */
static unsigned int grow_mb = 64;
module_param(grow_mb, uint, 0444);

static unsigned int life = 1;
static unsigned long faults;

#define FAULT(fmt, ...)                                           \
	do {                                                      \
		if (faults++ < 10)                                \
			pr_err("FAULT " fmt "\n", ##__VA_ARGS__); \
	} while (0)

/* Pages by themselves: 1, 8, 64 and 512. */
#define FOLIOS 4
#define FOLIO_ORDER(n) (3 * (n))

/* What "sessions" says. */
struct root {
	u64 life;
	u64 count;
	struct heirloom_handle first;
	struct heirloom_handle folios[FOLIOS];
};

struct session {
	u64 number;
	u64 size;
	struct heirloom_handle buffer;
	struct heirloom_handle next;
	u64 check;
};

static struct heirloom_cache *cache;

/* Every size that a subsystem may want: objects, buffers of some pages, folios, and now and then 2 MiB. */
static size_t size_of(u64 number)
{
	static const size_t sizes[] = { 8, 40, 64, 200, 512, 1000, 2048, 4000, 4096, 5 * 4096, 12000, 65536 };

	return number % 500 == 499 ? SZ_2M : sizes[number % ARRAY_SIZE(sizes)];
}

static u64 word_of(u64 number, size_t at)
{
	return (number * 0x9e3779b97f4a7c15ULL) ^ (at * 0xbf58476d1ce4e5b9ULL);
}

static void fill(void *buffer, size_t size, u64 number)
{
	u64 *word = buffer;
	size_t at;

	for (at = 0; at < size / 8; at++)
		word[at] = word_of(number, at);
}

static bool is_filled(const void *buffer, size_t size, u64 number)
{
	const u64 *word = buffer;
	size_t at;

	for (at = 0; at < size / 8; at++)
		if (word[at] != word_of(number, at))
			return false;
	return true;
}

static u64 check_of(const struct session *session)
{
	return word_of(session->number ^ session->size, 7);
}

/* Makes a session that is preserved, before @next. Returns it, or NULL. */
static struct session *make(u64 number, const struct heirloom_handle *next, struct heirloom_handle *handle)
{
	struct session *session = hl_cache_alloc(cache, GFP_KERNEL);
	size_t size = size_of(number);
	void *buffer = hl_kmalloc(size, GFP_KERNEL);

	if (!session || !buffer) {
		FAULT("no memory for session %llu of %zu bytes", number, size);
		hl_cache_free(cache, session);
		hl_kfree(buffer);
		return NULL;
	}
	fill(buffer, size, number);
	*session = (struct session){ .number = number, .size = size, .next = *next };
	session->check = check_of(session);
	if (hl_preserve(buffer, &session->buffer, GFP_KERNEL))
		FAULT("buffer of session %llu is not preserved", number);
	if (heirloom_handle(hl_instance, session, handle))
		FAULT("session %llu has no handle", number);
	return session;
}

/* Frees a session and its buffer. */
static void drop(struct session *session, void *buffer)
{
	hl_kfree(buffer);
	hl_cache_free(cache, session);
}

/*
 * Claims all that the last life left, compares it, frees every second session.
 * Returns the bytes that were compared; @kept: the list of those that stay; @lost: the objects that were not found as
 * they were.
 */
static u64 claim(const struct root *root, struct root *kept, u64 *lost)
{
	struct heirloom_handle at = root->first, this;
	u64 bytes = 0, i;

	for (i = 0; i < root->count; i++) {
		struct session *session = hl_restore(&at);
		void *buffer;

		if (!session) {
			char text[120];

			heirloom_error_text(text, sizeof(text));
			FAULT("session %llu of %llu: %s", i, root->count, text);
			/* Where the others are, it alone knew. */
			*lost += 2 * (root->count - i);
			return bytes;
		}
		if (session->check != check_of(session)) {
			FAULT("session %llu is not as it was", i);
			++*lost;
		}
		if (i == 0 && hl_restore(&at))
			FAULT("session %llu was claimed twice", i);
		buffer = hl_restore(&session->buffer);
		if (!buffer || !is_filled(buffer, session->size, session->number)) {
			FAULT("buffer of session %llu is not as it was", session->number);
			++*lost;
		}
		bytes += session->size + sizeof(*session);
		this = at;
		at = session->next;
		if (i % 2) {
			drop(session, buffer);
		} else {
			session->next = kept->first;
			kept->first = this;
			kept->count++;
		}
	}
	return bytes;
}

/* Makes the folios that the next life is to find. */
static void make_folios(struct root *kept)
{
	unsigned int n;

	for (n = 0; n < FOLIOS; n++) {
		void *folio = hl_folio_alloc(FOLIO_ORDER(n), GFP_KERNEL);

		if (!folio) {
			FAULT("no folio of order %u", FOLIO_ORDER(n));
			continue;
		}
		fill(folio, PAGE_SIZE << FOLIO_ORDER(n), kept->life + n);
		if (hl_folio_preserve(folio, FOLIO_ORDER(n), &kept->folios[n], GFP_KERNEL))
			FAULT("folio of order %u is not preserved", FOLIO_ORDER(n));
	}
}

/* Claims the last life's, compares them, and frees them. Returns the bytes that were compared. */
static u64 claim_folios(const struct root *root, u64 *lost)
{
	unsigned int n, order;
	u64 bytes = 0;

	for (n = 0; n < FOLIOS; n++) {
		void *folio = hl_folio_restore(&root->folios[n], &order);

		if (!folio || order != FOLIO_ORDER(n) || !is_filled(folio, PAGE_SIZE << order, root->life + n)) {
			FAULT("folio of order %u is not as it was", FOLIO_ORDER(n));
			++*lost;
			continue;
		}
		if (hl_folio_restore(&root->folios[n], NULL) || hl_folio_unpreserve(folio, order))
			FAULT("folio of order %u is claimed twice, or not let go", order);
		hl_folio_free(folio, order);
		bytes += PAGE_SIZE << order;
	}
	return bytes;
}

/* Threads and timers that allocate and free, on all CPUs, beside whatever else goes on. */

#define HELD 64

struct stress {
	struct task_struct *thread;
	struct hrtimer timer;
	struct rnd_state random;
	void *held[HELD];
	void *held_in_timer[HELD];
	u64 pairs, interrupts;
};

static DEFINE_PER_CPU(struct stress, stresses);
static bool stressing;

static void exchange(void **place, struct rnd_state *random, gfp_t gfp)
{
	static const size_t sizes[] = { 16, 64, 200, 700, 3000, 9000 };
	size_t size = sizes[prandom_u32_state(random) % ARRAY_SIZE(sizes)];
	/* Some are preserved as long as they live: the jump finds them, and they are claimed by nothing. */
	void *new = prandom_u32_state(random) % 8 ? hl_kmalloc(size, gfp) :
						    heirloom_alloc_with(hl_instance, size, 8, HEIRLOOM_PRESERVED);

	if (new) {
		/* Its own address is in it. */
		*(void **)new = new;
		if (prandom_u32_state(random) % 4 == 0 && !hl_preserve(new, NULL, gfp) && hl_unpreserve(new))
			FAULT("%p is not let go", new);
	}
	/* Maybe by another CPU than the one that allocated it. */
	new = xchg(place, new);
	if (new) {
		if (*(void **)new != new)
			FAULT("%p was overwritten", new);
		hl_kfree(new);
	}
}

static int stress_thread(void *data)
{
	struct stress *own = data;

	while (!kthread_should_stop()) {
		struct stress *any = per_cpu_ptr(&stresses, prandom_u32_state(&own->random) % nr_cpu_ids);

		if (cpu_possible(prandom_u32_state(&own->random) % nr_cpu_ids))
			exchange(&any->held[prandom_u32_state(&own->random) % HELD], &own->random,
				 own->pairs % 8 ? GFP_KERNEL : GFP_ATOMIC);
		own->pairs++;
		cond_resched();
	}
	return 0;
}

static enum hrtimer_restart stress_timer(struct hrtimer *timer)
{
	struct stress *own = container_of(timer, struct stress, timer);
	struct rnd_state random = own->random;
	int i;

	random.s1 ^= own->interrupts + 2;
	for (i = 0; i < 4; i++)
		exchange(&own->held_in_timer[prandom_u32_state(&random) % HELD], &random, GFP_ATOMIC);
	own->interrupts++;
	if (!READ_ONCE(stressing))
		return HRTIMER_NORESTART;
	hrtimer_forward_now(timer, ms_to_ktime(1));
	return HRTIMER_RESTART;
}

static void stress_start_timer(void *unused)
{
	hrtimer_start(this_cpu_ptr(&stresses.timer), ms_to_ktime(1), HRTIMER_MODE_REL_PINNED_HARD);
}

static void stress_begin(void)
{
	int cpu;

	WRITE_ONCE(stressing, true);
	for_each_online_cpu(cpu) {
		struct stress *own = per_cpu_ptr(&stresses, cpu);

		prandom_seed_state(&own->random, 0x5eed + cpu + life);
		hrtimer_setup(&own->timer, stress_timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
		own->thread = kthread_create_on_cpu(stress_thread, own, cpu, "stress/%u");
		if (IS_ERR(own->thread)) {
			FAULT("no thread on CPU %d", cpu);
			own->thread = NULL;
			continue;
		}
		wake_up_process(own->thread);
	}
	on_each_cpu(stress_start_timer, NULL, 1);
}

static void stress_end(void)
{
	u64 pairs = 0, interrupts = 0;
	int cpu, i;

	WRITE_ONCE(stressing, false);
	for_each_online_cpu(cpu) {
		struct stress *own = per_cpu_ptr(&stresses, cpu);

		if (own->thread)
			kthread_stop(own->thread);
		hrtimer_cancel(&own->timer);
		pairs += own->pairs;
		interrupts += own->interrupts;
	}
	for_each_possible_cpu(cpu)
		for (i = 0; i < HELD; i++) {
			hl_kfree(xchg(&per_cpu_ptr(&stresses, cpu)->held[i], NULL));
			hl_kfree(xchg(&per_cpu_ptr(&stresses, cpu)->held_in_timer[i], NULL));
		}
	pr_info("stress: %u CPUs, %llu pairs in threads, %llu times in interrupts\n", num_online_cpus(),
		pairs, interrupts);
}

#define GROWN_BYTES SZ_256K

/* The class that the compiler finds for a size is the one that heirloom has for it, and there is room for that size. */
static void compare_classes(void)
{
	size_t size;

	for (size = 0; size <= PAGE_SIZE + 1; size++) {
		int class = heirloom_class(size);
		void *ptr = class < 0 ? NULL : __hl_kmalloc_class(class, size, GFP_KERNEL);

		if (hl_class(size) != class)
			FAULT("%zu bytes are of class %d, and are taken for %d", size, class, hl_class(size));
		if (class >= 0 && (!ptr || hl_ksize(ptr) < size))
			FAULT("class %d has no room for %zu bytes", class, size);
		hl_kfree(ptr);
	}
	if (hl_class(SIZE_MAX) >= 0 || heirloom_class(SIZE_MAX) >= 0)
		FAULT("a class for all there is");
}

/* What no memory helps comes to an end, and takes no memory for good. */
static void fail_in_vain(void)
{
	u64 before = hl_on_loan(), stray = 0;

	if (hl_kmalloc(0, GFP_KERNEL) || hl_kmalloc(SIZE_MAX / 2, GFP_KERNEL) ||
	    hl_krealloc(&stray, 64, GFP_KERNEL) || hl_folio_alloc(MAX_PAGE_ORDER + 1, GFP_KERNEL) ||
	    hl_folio_alloc(-1, GFP_KERNEL))
		FAULT("memory where there is none");
	hl_give_back();
	if (hl_on_loan() > before)
		FAULT("%llu pages on loan for nothing", hl_on_loan() - before);
}

/* Has much more than there is, frees it, and gives it back. */
static void grow_and_give_back(void)
{
	size_t count = grow_mb * (SZ_1M / GROWN_BYTES), at;
	void **grown = kvcalloc(count, sizeof(*grown), GFP_KERNEL);
	u64 before, most, given, after;

	if (!grown) {
		FAULT("no memory for the list");
		return;
	}
	hl_give_back();
	before = hl_on_loan();
	for (at = 0; at < count; at++) {
		grown[at] = hl_kmalloc(GROWN_BYTES, GFP_KERNEL);
		if (grown[at])
			fill(grown[at], GROWN_BYTES, at);
		else
			FAULT("no memory for %zu of %zu", at, count);
	}
	most = hl_on_loan();
	for (at = 0; at < count; at++) {
		if (grown[at] && !is_filled(grown[at], GROWN_BYTES, at))
			FAULT("what was had at run time is not as it was");
		hl_kfree(grown[at]);
	}
	kvfree(grown);
	given = hl_give_back();
	after = hl_on_loan();
	pr_info("on loan: %llu pages, %llu with %u MiB more, %llu once that was given back\n", before, most,
		grow_mb, after);
	if (after + given != most)
		FAULT("%llu pages were given back, and %llu of %llu are left", given, after, most);
	/* A folio or two may be in use by what came meanwhile. */
	if (after > before + (most - before) / 4)
		FAULT("too little was given back");
}

/* Frees all there is: the last life. */
static void drop_all(const struct root *root)
{
	struct heirloom_handle at = root->first;
	u64 i;

	for (i = 0; i < root->count; i++) {
		struct session *session = heirloom_find(hl_instance, &at);
		void *buffer = session ? heirloom_find(hl_instance, &session->buffer) : NULL;

		if (!buffer) {
			FAULT("session %llu is not found", i);
			break;
		}
		at = session->next;
		drop(session, buffer);
	}
}

static int __init test_init(void)
{
	struct heirloom_cache_spec spec = {
		.name = "session",
		.size = sizeof(struct session),
		.fingerprint = 0x73657373696f6e31ULL,
		.flags = HEIRLOOM_CACHE_PRESERVING,
	};
	struct root root = {}, kept = {};
	struct heirloom_stats stats;
	size_t size = sizeof(root);
	u64 bytes = 0, made = 0, lost = 0;
	int err;

	if (!hl_instance)
		return -ENODEV;
	err = hl_retrieve("sessions", &root, &size);
	if (err && err != -ENOENT)
		FAULT("the name: %d", err);
	life = root.life + 1;
	cache = hl_cache_create(&spec);
	if (!cache) {
		FAULT("no cache: %d", heirloom_last_error());
		return -ENOMEM;
	}
	pr_info("life %u, generation %llu: %llu sessions are there\n", life,
		heirloom_generation(hl_instance), root.count);
	bytes = claim(&root, &kept, &lost);
	if (root.life)
		bytes += claim_folios(&root, &lost);
	hl_finish();
	fail_in_vain();
	compare_classes();
	if (grow_mb)
		grow_and_give_back();
	if (stress_ms && !traffic) {
		stress_begin();
		msleep(stress_ms);
		stress_end();
	}
	next = life < lives;
	while (next && kept.count < sessions) {
		struct heirloom_handle handle;

		if (!make(((u64)life << 32) + made++, &kept.first, &handle))
			break;
		kept.first = handle;
		kept.count++;
	}
	kept.life = life;
	if (next)
		make_folios(&kept);
	err = next ? hl_publish("sessions", &kept, sizeof(kept)) : hl_unpublish("sessions");
	if (err && (next || root.life))
		FAULT("the name: %d", err);
	if (!next)
		drop_all(&kept);
	if (next && sealed && !traffic && heirloom_seal(hl_instance))
		FAULT("no seal");
	heirloom_stats(hl_instance, &stats);
	pr_info("life %u ends: %llu objects, %llu bytes compared, %llu lost, %llu sessions, %llu pages preserved, %lu faults\n",
		life, root.count * 2 + (root.life ? FOLIOS : 0), bytes, lost, next ? kept.count : 0, stats.preserved, faults);
	if (next && traffic) {
		/* It goes on until the CPUs are stopped for the jump. */
		u64 sum = 0;
		int cpu;

		stress_begin();
		msleep(200);
		for_each_online_cpu(cpu)
			sum += READ_ONCE(per_cpu_ptr(&stresses, cpu)->pairs);
		pr_info("traffic goes on: %llu pairs so far, on %u CPUs\n", sum, num_online_cpus());
		if (!sum)
			FAULT("there is no traffic");
	}
	return 0;
}
late_initcall(test_init);

MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("heirloom: a subsystem that lives on");
