/*
 * A kernel of threads: what it must provide, two lives with metadata of its own, two with metadata in scratch, memory that is
 * added, memory that is lent and given back, and all CPUs at once.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include "test.h"

#define CPUS 4
#define START (6ull << 32)
#define BYTES (32ull << 20)
#define EXTRA (8ull << 20)

static _Thread_local int cpu = -1;
static _Thread_local int pinned, locks, most_locks;
static char *ram;
/* To what memory is lent where it runs out, and how much of it was. */
static struct heirloom *grows;
static uint64_t lent;

int heirloom_os_pin(void)
{
	if (cpu < 0 || pinned)
		return -1;
	pinned = 1;
	return cpu;
}

void heirloom_os_unpin(int number)
{
	CHECK(pinned && number == cpu);
	pinned = 0;
}

uint16_t heirloom_os_node(uint32_t number)
{
	CHECK(number < CPUS);
	return 0;
}

static void lock(uint64_t *word)
{
	while (__atomic_exchange_n(word, 1, __ATOMIC_ACQUIRE))
		sched_yield();
}

void heirloom_os_lock(struct heirloom_lock *l)
{
	CHECK(!pinned);
	lock(l->words);
	locks++;
	most_locks = locks > most_locks ? locks : most_locks;
}

int heirloom_os_try_lock(struct heirloom_lock *l)
{
	int taken = !__atomic_exchange_n(l->words, 1, __ATOMIC_ACQUIRE);

	locks += taken;
	return taken;
}

void heirloom_os_unlock(struct heirloom_lock *l)
{
	CHECK(locks-- > 0);
	__atomic_store_n(l->words, 0, __ATOMIC_RELEASE);
}

void heirloom_os_mutex_lock(struct heirloom_mutex *m)
{
	CHECK(!pinned && !locks);
	lock(m->words);
}

int heirloom_os_mutex_try_lock(struct heirloom_mutex *m)
{
	return !__atomic_exchange_n(m->words, 1, __ATOMIC_ACQUIRE);
}

void heirloom_os_mutex_unlock(struct heirloom_mutex *m)
{
	__atomic_store_n(m->words, 0, __ATOMIC_RELEASE);
}

int heirloom_os_may_wait(void)
{
	return 1;
}

int heirloom_os_may_reclaim(void)
{
	return 1;
}

int heirloom_os_grow(uint64_t pages)
{
	struct heirloom_range more = { .start = START + BYTES + lent, .bytes = 1 << 20 };

	CHECK(!pinned && !locks && pages > 0);
	if (!grows || lent == EXTRA)
		return 0;
	lent += more.bytes;
	return heirloom_online(grows, &more) == 0;
}

void heirloom_os_panic(const char *text, size_t bytes)
{
	fprintf(stderr, "panic: %.*s\n", (int)bytes, text);
	abort();
}

/* What core's own tables name, and nothing calls where panics abort. */
void rust_eh_personality(void)
{
	abort();
}

static struct heirloom_config config(const struct heirloom_range *ranges, size_t count)
{
	return (struct heirloom_config){
		.direct_map = ram,
		.direct_map_start = START,
		.direct_map_bytes = BYTES + EXTRA,
		.cpus = CPUS,
		.ranges = ranges,
		.range_count = count,
		.producer = "kernel.c",
	};
}

/* As a kernel does it: pinned by itself for what is at hand, and by the whole call for the rest. */
static void *alloc(struct heirloom *h, size_t bytes)
{
	int number = heirloom_os_pin();
	void *ptr = NULL;

	if (number >= 0) {
		ptr = heirloom_pinned_alloc(h, number, bytes);
		heirloom_os_unpin(number);
	}
	return ptr ? ptr : heirloom_alloc(h, bytes);
}

static int release(struct heirloom *h, void *ptr)
{
	int number = heirloom_os_pin(), freed = 0;

	if (number >= 0) {
		freed = heirloom_pinned_free(h, number, ptr);
		heirloom_os_unpin(number);
	}
	return freed ? 0 : heirloom_free(h, ptr);
}

/* Each size has a class that has room for it, up to where it is whole pages. */
static void classes(struct heirloom *h)
{
	int number, before = 0, served = 0, asked = 0;

	CHECK(heirloom_class(0) == -1 && heirloom_class(SIZE_MAX) == -1 && heirloom_class(1 << 20) == -1);
	for (size_t bytes = 1; heirloom_class(bytes) >= 0; bytes++) {
		int class = heirloom_class(bytes);
		void *first = heirloom_alloc(h, bytes), *ptr;

		CHECK(first && class >= before);
		before = class;
		number = heirloom_os_pin();
		CHECK(number >= 0);
		ptr = heirloom_pinned_alloc_class(h, number, class);
		heirloom_os_unpin(number);
		asked++;
		if (ptr) {
			served++;
			CHECK(ptr != first && heirloom_usable_size(h, ptr) >= bytes);
			memset(ptr, class, bytes);
			CHECK(!heirloom_free(h, ptr));
		}
		CHECK(!heirloom_free(h, first));
	}
	/* Up to a page, and most are at hand. */
	CHECK(before > 9 && asked > 3000 && served > asked * 9 / 10);
}

/* What is at hand is given and taken, and nothing else: what is more is left to the whole calls, which say what is wrong. */
static void at_hand(struct heirloom *h, struct heirloom_cache *cache)
{
	struct heirloom_cache_spec spec = { .name = "pinned", .size = 64 };
	struct heirloom_cache *mine = heirloom_cache_create(h, &spec);
	enum { MANY = 1000 };
	static unsigned char *objects[2 * MANY];
	int number = heirloom_os_pin(), served = 0, freed = 0;

	CHECK(mine && number >= 0);
	/* Nothing is at hand of a cache that is new. */
	CHECK(!heirloom_cache_pinned_alloc(mine, number));
	heirloom_os_unpin(number);
	for (int n = 0; n < MANY; n++) {
		number = heirloom_os_pin();
		unsigned char *object = heirloom_cache_pinned_alloc(mine, number);
		unsigned char *buffer = heirloom_pinned_alloc(h, number, 200);
		heirloom_os_unpin(number);
		served += (object != NULL) + (buffer != NULL);
		objects[n] = object ? object : heirloom_cache_alloc(mine);
		objects[MANY + n] = buffer ? buffer : heirloom_alloc(h, 200);
		CHECK(objects[n] && objects[MANY + n]);
		memset(objects[n], n, 64);
		memset(objects[MANY + n], n, 200);
	}
	/* Most are. */
	CHECK(served > 2 * MANY * 9 / 10);
	number = heirloom_os_pin();
	CHECK(!heirloom_pinned_alloc(h, number, 0) && !heirloom_pinned_alloc(h, number, 1 << 20));
	CHECK(!heirloom_pinned_alloc(h, number, SIZE_MAX));
	CHECK(!heirloom_cache_pinned_free(mine, number, NULL));
	/* What is not the caller's to free so. */
	CHECK(!heirloom_cache_pinned_free(cache, number, objects[0]));
	CHECK(!heirloom_cache_pinned_free(mine, number, objects[0] + 8) && !heirloom_pinned_free(h, number, objects[0] + 8));
	CHECK(!heirloom_pinned_free(h, number, &number) && !heirloom_cache_pinned_free(mine, number, &number));
	heirloom_os_unpin(number);
	CHECK(heirloom_preserve(h, objects[0], NULL) == 0 && heirloom_preserve(h, objects[MANY], NULL) == 0);
	number = heirloom_os_pin();
	CHECK(!heirloom_cache_pinned_free(mine, number, objects[0]) && !heirloom_pinned_free(h, number, objects[MANY]));
	heirloom_os_unpin(number);
	CHECK(heirloom_unpreserve(h, objects[0]) == 0 && heirloom_unpreserve(h, objects[MANY]) == 0);
	for (int n = 0; n < MANY; n++) {
		CHECK(objects[n][63] == (unsigned char)n && objects[MANY + n][199] == (unsigned char)n);
		number = heirloom_os_pin();
		int first = heirloom_cache_pinned_free(mine, number, objects[n]);
		int second = heirloom_pinned_free(h, number, objects[MANY + n]);
		/* Freed is freed. */
		CHECK(!(first && heirloom_cache_pinned_free(mine, number, objects[n])));
		CHECK(!(second && heirloom_pinned_free(h, number, objects[MANY + n])));
		heirloom_os_unpin(number);
		freed += first + second;
		CHECK(first || heirloom_cache_free(mine, objects[n]) == 0);
		CHECK(second || heirloom_free(h, objects[MANY + n]) == 0);
		FAILS(HEIRLOOM_ERROR_DOUBLE_FREE, heirloom_free(h, objects[n]));
	}
	CHECK(freed > 2 * MANY * 9 / 10);
	CHECK(heirloom_cache_destroy(mine) == 0);
}

/* What is reserved is had when all memory is another's, and what is not wanted goes back. */
static void reserves(struct heirloom *h)
{
	struct heirloom_cache_spec spec = { .name = "reserved", .size = 4000, .flags = HEIRLOOM_CACHE_PRESERVING };
	struct heirloom_cache *cache = heirloom_cache_create(h, &spec);
	struct heirloom_reservation reservation, none;
	enum { MINE = 100, MOST = 1 << 14 };
	static void *mine[MINE], *others[MOST];
	int count = 0;

	CHECK(cache);
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_cache_reserve(cache, 1, NULL));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_cache_reserve(NULL, 1, &reservation));
	CHECK(heirloom_cache_reserve(cache, MINE + 50, &reservation) == 0);
	while (count < MOST && (others[count] = heirloom_cache_alloc(cache)))
		count++;
	FAILS(HEIRLOOM_ERROR_OUT_OF_MEMORY, heirloom_cache_reserve(cache, 1, &none));
	for (int n = 0; n < MINE; n++) {
		mine[n] = heirloom_reserved_alloc(&reservation);
		CHECK(mine[n]);
		memset(mine[n], n, 4000);
	}
	heirloom_unreserve(&reservation);
	heirloom_unreserve(NULL);
	CHECK(!heirloom_reserved_alloc(NULL));
	/* The other 50 can be allocated by every call now. */
	for (int n = 0; n < 50; n++)
		CHECK((others[count++] = heirloom_cache_alloc(cache)));
	CHECK(!heirloom_cache_alloc(cache));
	for (int n = 0; n < MINE; n++) {
		CHECK(((unsigned char *)mine[n])[3999] == n);
		CHECK(heirloom_cache_free(cache, mine[n]) == 0);
	}
	while (count)
		CHECK(heirloom_cache_free(cache, others[--count]) == 0);
	CHECK(heirloom_cache_reserve(cache, 3, &reservation) == 0);
	for (int n = 0; n < 3; n++)
		CHECK((mine[n] = heirloom_reserved_alloc(&reservation)));
	CHECK(!heirloom_reserved_alloc(&reservation));
	heirloom_unreserve(&reservation);
	for (int n = 0; n < 3; n++)
		CHECK(heirloom_cache_free(cache, mine[n]) == 0);
	CHECK(heirloom_cache_destroy(cache) == 0);
}

struct work {
	struct heirloom *h;
	struct heirloom_cache *cache;
	int cpu;
};

static void *work(void *argument)
{
	struct work *work = argument;
	enum { KEPT = 64 };
	unsigned char *kept[KEPT] = { NULL };
	unsigned seed = 1 + (unsigned)work->cpu;

	cpu = work->cpu;
	for (int n = 0; n < 20000; n++) {
		seed = seed * 1103515245u + 12345u;
		unsigned at = (seed >> 8) % KEPT;

		if (kept[at]) {
			CHECK(kept[at][0] == (unsigned char)work->cpu);
			CHECK((n % 2 ? heirloom_free(work->h, kept[at]) : release(work->h, kept[at])) == 0);
			kept[at] = NULL;
			continue;
		}
		kept[at] = n % 3 ? heirloom_cache_alloc(work->cache) : alloc(work->h, 1 + seed % 5000);
		CHECK(kept[at] != NULL);
		kept[at][0] = (unsigned char)work->cpu;
	}
	for (int at = 0; at < KEPT; at++)
		CHECK(heirloom_free(work->h, kept[at]) == 0);
	CHECK(most_locks <= 2);
	return NULL;
}

static void all_at_once(struct heirloom *h, struct heirloom_cache *cache)
{
	struct work works[CPUS];
	pthread_t threads[CPUS];

	for (int n = 1; n < CPUS; n++) {
		works[n] = (struct work){ .h = h, .cache = cache, .cpu = n };
		CHECK(pthread_create(&threads[n], NULL, work, &works[n]) == 0);
	}
	for (int n = 1; n < CPUS; n++)
		CHECK(pthread_join(threads[n], NULL) == 0);
}

static int tell(const struct heirloom_unclaimed *unclaimed, void *context)
{
	CHECK(unclaimed->kind == HEIRLOOM_KIND_OBJECT && !strcmp(unclaimed->name, "things"));
	++*(int *)context;
	return 0;
}

/* Two lives; with metadata in scratch, or in memory that is no range's. */
static void lives(int in_scratch)
{
	struct heirloom_range ranges[] = { { .start = START, .bytes = BYTES } };
	struct heirloom_range scratch = { .start = START + BYTES / 2, .bytes = 1 << 20 };
	size_t needed = heirloom_metadata_bytes(ranges, 1, CPUS), room_bytes = heirloom_room_bytes();
	void *metadata = malloc(needed), *room = malloc(room_bytes);
	struct heirloom_config c = config(ranges, 1);
	struct heirloom_cache_spec spec = { .name = "things", .size = 48, .flags = HEIRLOOM_CACHE_PRESERVING };
	struct heirloom_entry entry;
	struct heirloom *h = NULL;

	CHECK(needed > 0 && needed <= scratch.bytes && metadata && room);
	memset(ram, 0, BYTES + EXTRA);
	if (in_scratch)
		c.scratch = &scratch, c.scratch_count = 1;
	else
		c.metadata = metadata, c.metadata_bytes = needed;
	CHECK(heirloom_boot(room, room_bytes, &c, &h) == 0 && h);
	struct heirloom_cache *things = heirloom_cache_create(h, &spec);
	struct heirloom_handle handles[3];

	CHECK(things != NULL);
	for (int n = 0; n < 3; n++) {
		int *thing = heirloom_cache_zalloc(things);

		CHECK(thing && heirloom_handle(h, thing, &handles[n]) == 0);
		*thing = n;
	}
	if (cpu >= 0) {
		classes(h);
		at_hand(h, things);
	}
	reserves(h);
	all_at_once(h, things);
	CHECK(heirloom_publish(h, "things", handles, 2 * sizeof(handles[0])) == 0);
	CHECK(heirloom_entry(h, &entry) == 0);

	/* Memory that comes later. */
	struct heirloom_range extra = { .start = START + BYTES, .bytes = EXTRA };
	size_t extra_bytes = heirloom_metadata_bytes(&extra, 1, 0);
	void *space = malloc(extra_bytes);
	struct heirloom_stats before, after;

	CHECK(space && heirloom_stats(h, &before) == 0);
	FAILS(HEIRLOOM_ERROR_BAD_SPACE, heirloom_add_range(h, &extra, space, 8));
	FAILS(HEIRLOOM_ERROR_RANGE_OVERLAPS, heirloom_add_range(h, ranges, space, extra_bytes));
	CHECK(heirloom_add_range(h, &extra, space, extra_bytes) == 0 && heirloom_stats(h, &after) == 0);
	CHECK(after.pages - before.pages == EXTRA / after.page_bytes);
	heirloom_close(h);

	/* The successor: nothing but ranges and the entry passed. */
	memset(room, 0, room_bytes);
	memset(metadata, 0xa5, needed);
	c.scratch = NULL, c.scratch_count = 0;
	CHECK(heirloom_revive(room, room_bytes, &c, &entry, &h) == 0 && heirloom_generation(h) == 1);
	things = heirloom_cache_adopt(h, &spec, NULL);
	size_t bytes = sizeof(handles);

	CHECK(heirloom_retrieve(h, "things", handles, &bytes) == 0 && bytes == 2 * sizeof(handles[0]));
	for (int n = 0; n < 2; n++) {
		int *thing = heirloom_restore(h, &handles[n]);

		CHECK(thing && *thing == n && heirloom_cache_free(things, thing) == 0);
		FAILS(HEIRLOOM_ERROR_DOUBLE_FREE, heirloom_cache_free(things, thing));
		TELLS("is free already");
	}
	int objects = 0;
	struct heirloom_finished finished;

	CHECK(heirloom_finish(h, tell, &objects, &finished) == 0 && objects == 1 && finished.objects == 1);
	CHECK(!finished.blocks && !finished.slabs && !finished.names);
	all_at_once(h, things);
	heirloom_close(h);
	free(space);
	free(metadata);
	free(room);
}

/* Memory that is absent at first, and lent where it is wanted; a successor that has what was lent. */
static void lends(void)
{
	struct heirloom_range first = { .start = START, .bytes = 1 << 20 };
	struct heirloom_range all[] = { first, { .start = START + BYTES, .bytes = EXTRA } };
	size_t needed = heirloom_metadata_bytes(all, 2, CPUS), room_bytes = heirloom_room_bytes();
	void *metadata = malloc(needed), *room = malloc(room_bytes);
	struct heirloom_config c = config(all, 1);
	struct heirloom_handle handle;
	struct heirloom_entry entry;
	struct heirloom_stats stats;
	struct heirloom *h = NULL;
	enum { MOST = 1 << 10 };
	static void *kept[MOST];
	int count = 0;

	CHECK(metadata && room);
	memset(ram, 0, BYTES + EXTRA);
	c.metadata = metadata, c.metadata_bytes = needed;
	c.absent = &all[1], c.absent_count = 1;
	CHECK(heirloom_boot(room, room_bytes, &c, &h) == 0);
	CHECK(heirloom_stats(h, &stats) == 0 && stats.pages == first.bytes / stats.page_bytes);
	CHECK(stats.absent == EXTRA / stats.page_bytes);
	grows = h, lent = 0;

	/* What is published asks for more, too. */
	static char large[1 << 20];

	CHECK(heirloom_publish(h, "large", large, sizeof(large)) == 0 && lent == 1 << 20);
	CHECK(heirloom_unpublish(h, "large") == 0);

	/* For what no machine has none is asked for, and nothing is taken. */
	struct heirloom_cache_spec spec = { .name = "reserved", .size = 4000 };
	struct heirloom_cache *cache = heirloom_cache_create(h, &spec);
	struct heirloom_reservation reservation;

	CHECK(cache);
	FAILS(HEIRLOOM_ERROR_OUT_OF_MEMORY, heirloom_cache_reserve(cache, SIZE_MAX, &reservation));
	CHECK(lent == 1 << 20);
	while (count < MOST && (kept[count] = heirloom_alloc(h, 10000)))
		memset(kept[count], count + 1, 10000), count++;
	CHECK(heirloom_last_error() == HEIRLOOM_ERROR_OUT_OF_MEMORY || heirloom_last_error() == HEIRLOOM_ERROR_NO_RUN);
	CHECK(lent == EXTRA && count > 500 && heirloom_stats(h, &stats) == 0 && stats.absent == 0);

	/* What is in use stays; what is free goes, and cannot go twice. */
	struct heirloom_range last = { .start = START + BYTES + EXTRA - (1 << 20), .bytes = 1 << 20 };

	FAILS(HEIRLOOM_ERROR_NOT_FREE, heirloom_offline(h, &last));
	FAILS(HEIRLOOM_ERROR_NOT_ABSENT, heirloom_online(h, &last));
	CHECK(heirloom_preserve(h, kept[0], &handle) == 0);
	for (int n = 1; n < count; n++)
		CHECK(heirloom_free(h, kept[n]) == 0);
	heirloom_shrink(h);
	CHECK(heirloom_offline(h, &last) == 0);
	FAILS(HEIRLOOM_ERROR_NOT_FREE, heirloom_offline(h, &last));
	CHECK(heirloom_stats(h, &stats) == 0 && stats.absent == last.bytes / stats.page_bytes);
	CHECK(heirloom_entry(h, &entry) == 0);
	heirloom_close(h);

	struct heirloom_range online = { .start = START + BYTES, .bytes = EXTRA - last.bytes };

	c.online = &online, c.online_count = 1;
	grows = NULL;
	CHECK(heirloom_revive(room, room_bytes, &c, &entry, &h) == 0);
	unsigned char *buffer = heirloom_restore(h, &handle);

	CHECK(buffer && buffer[0] == 1 && buffer[9999] == 1 && heirloom_free(h, buffer) == 0);
	heirloom_close(h);
	free(metadata);
	free(room);
}

static void refused(void)
{
	struct heirloom_range ranges[HEIRLOOM_MAX_RANGES + 1] = { { .start = START, .bytes = BYTES } };
	struct heirloom_config c = config(ranges, 1);
	size_t room_bytes = heirloom_room_bytes();
	void *room = malloc(room_bytes);
	struct heirloom *h;

	FAILS(HEIRLOOM_ERROR_NULL, heirloom_boot(NULL, 0, &c, &h));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_boot(room, room_bytes, NULL, &h));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_boot(room, room_bytes, &c, NULL));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_revive(room, room_bytes, &c, NULL, &h));
	FAILS(HEIRLOOM_ERROR_TOO_SMALL, heirloom_boot(room, 64, &c, &h));
	FAILS(HEIRLOOM_ERROR_SCRATCH_TOO_SMALL, heirloom_boot(room, room_bytes, &c, &h));
	c.metadata = room, c.metadata_bytes = 64;
	FAILS(HEIRLOOM_ERROR_BAD_SPACE, heirloom_boot(room, room_bytes, &c, &h));
	c = config(ranges, 1), c.cpus = 0;
	FAILS(HEIRLOOM_ERROR_BAD_CHOICE, heirloom_boot(room, room_bytes, &c, &h));
	c = config(ranges, 1), c.direct_map = NULL;
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_boot(room, room_bytes, &c, &h));
	c = config(ranges, 1), c.direct_map_bytes = 4096;
	FAILS(HEIRLOOM_ERROR_OUTSIDE_MAP, heirloom_boot(room, room_bytes, &c, &h));
	c = config(ranges, HEIRLOOM_MAX_RANGES + 1);
	FAILS(HEIRLOOM_ERROR_TOO_MANY, heirloom_boot(room, room_bytes, &c, &h));
	ranges[0].bytes += 1;
	c = config(ranges, 1);
	FAILS(HEIRLOOM_ERROR_MISALIGNED, heirloom_boot(room, room_bytes, &c, &h));
	CHECK(heirloom_metadata_bytes(ranges, 1, CPUS) == 0);
	heirloom_close(NULL);
	free(room);
}

int main(void)
{
	ram = mmap(NULL, BYTES + EXTRA + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(ram != MAP_FAILED);
	/* As aligned as what it shows. */
	ram += (2 << 20) - (uintptr_t)ram % (2 << 20);
	cpu = 0;
	refused();
	lives(0);
	lives(1);
	lends();
	/* A thread that is no CPU's does without. */
	cpu = -1;
	lives(0);
	return 0;
}
