/* Each mistake in a call is named by its error, and changes nothing. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

static const struct heirloom_range memory = { .start = 1ull << 32, .bytes = 32 << 20 };

static void buffers(struct heirloom *h)
{
	char outside[64];
	char *small = heirloom_alloc(h, 100), *large = heirloom_zalloc(h, 3 * 65536);
	struct heirloom_handle handle;

	CHECK(small && large && large[3 * 65536 - 1] == 0);
	NO_POINTER(HEIRLOOM_ERROR_NULL, heirloom_alloc(NULL, 8));
	NO_POINTER(HEIRLOOM_ERROR_BAD_LAYOUT, heirloom_alloc(h, 0));
	NO_POINTER(HEIRLOOM_ERROR_BAD_LAYOUT, heirloom_alloc(h, SIZE_MAX));
	NO_POINTER(HEIRLOOM_ERROR_BAD_LAYOUT, heirloom_alloc_with(h, 8, 24, 0));
	NO_POINTER(HEIRLOOM_ERROR_BAD_CHOICE, heirloom_alloc_with(h, 8, 8, 4));
	CHECK(heirloom_alloc(h, 1ull << 40) == NULL && heirloom_errno(heirloom_last_error()) == 12);

	CHECK(heirloom_free(h, NULL) == 0 && heirloom_free(NULL, NULL) == 0);
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_free(NULL, small));
	FAILS(HEIRLOOM_ERROR_INTERIOR, heirloom_free(h, small + 1));
	FAILS(HEIRLOOM_ERROR_INTERIOR, heirloom_free(h, large + 65536));
	FAILS(HEIRLOOM_ERROR_NOT_AN_OBJECT, heirloom_free(h, outside));
	CHECK(heirloom_usable_size(h, outside) == 0 && heirloom_usable_size(h, small + 1) == 0);
	CHECK(heirloom_usable_size(NULL, small) == 0 && heirloom_usable_size(h, NULL) == 0);

	CHECK(heirloom_preserve(h, small, &handle) == 0 && heirloom_preserve(h, large, NULL) == 0);
	FAILS(HEIRLOOM_ERROR_ALREADY_PRESERVED, heirloom_preserve(h, small, NULL));
	FAILS(HEIRLOOM_ERROR_FRAME_ALREADY_PRESERVED, heirloom_preserve(h, large, NULL));
	FAILS(HEIRLOOM_ERROR_PRESERVED, heirloom_free(h, small));
	FAILS(HEIRLOOM_ERROR_FRAME_PRESERVED, heirloom_free(h, large));
	NO_POINTER(HEIRLOOM_ERROR_PRESERVED, heirloom_realloc(h, small, 5000));
	CHECK(heirloom_find(h, &handle) == small);
	CHECK(heirloom_unpreserve(h, small) == 0 && heirloom_unpreserve(h, large) == 0);
	FAILS(HEIRLOOM_ERROR_NOT_PRESERVED, heirloom_unpreserve(h, small));
	FAILS(HEIRLOOM_ERROR_FRAME_NOT_PRESERVED, heirloom_unpreserve(h, large));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_preserve(h, NULL, &handle));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_handle(h, small, NULL));
	FAILS(HEIRLOOM_ERROR_NOT_AN_OBJECT, heirloom_handle(h, outside, &handle));

	NO_POINTER(HEIRLOOM_ERROR_BAD_LAYOUT, heirloom_realloc(h, small, 0));
	memset(small, 7, 100);
	small = heirloom_realloc(h, small, 20000);
	CHECK(small && small[0] == 7 && small[99] == 7);
	char *fresh = heirloom_realloc(h, NULL, 10);

	CHECK(fresh && heirloom_free(h, fresh) == 0);
	FAILS(HEIRLOOM_ERROR_DOUBLE_FREE, heirloom_free(h, fresh));
	TELLS("is free already");
	CHECK(heirloom_free(h, small) == 0 && heirloom_free(h, large) == 0);
	FAILS(HEIRLOOM_ERROR_DOUBLE_FREE, heirloom_free(h, large));

	/* The text ends where the room does, and its length is told. */
	char text[8] = "1234567";
	size_t whole = heirloom_error_text(NULL, 0);

	CHECK(whole > sizeof(text) && heirloom_error_text(text, 4) == whole);
	CHECK(text[3] == 0 && text[4] == '5' && strlen(text) == 3);
}

static void folios(struct heirloom *h)
{
	char outside[64];
	char *folio = heirloom_folio_alloc(h, 5, 0), *buffer = heirloom_alloc(h, 4 * 65536);
	struct heirloom_handle handle, other;

	struct heirloom_stats stats;

	CHECK(folio && buffer && heirloom_preserve(h, buffer, &other) == 0 && heirloom_stats(h, &stats) == 0);
	char *page = heirloom_alloc(h, stats.page_bytes);

	CHECK(page != NULL);
	NO_POINTER(HEIRLOOM_ERROR_NULL, heirloom_folio_alloc(NULL, 0, 0));
	NO_POINTER(HEIRLOOM_ERROR_BAD_CHOICE, heirloom_folio_alloc(h, 999, 0));
	NO_POINTER(HEIRLOOM_ERROR_BAD_CHOICE, heirloom_folio_alloc(h, 0, HEIRLOOM_PRESERVED));
	NO_POINTER(HEIRLOOM_ERROR_OUT_OF_MEMORY, heirloom_folio_alloc(h, 18, 0));

	CHECK(heirloom_folio_free(h, NULL, 2) == 0);
	FAILS(HEIRLOOM_ERROR_NOT_MEMORY, heirloom_folio_free(h, (void *)((uintptr_t)outside & ~0xffffull), 0));
	FAILS(HEIRLOOM_ERROR_MISALIGNED, heirloom_folio_free(h, folio + 1, 2));
	FAILS(HEIRLOOM_ERROR_FRAME_WRONG_ORDER, heirloom_folio_free(h, folio, 1));
	FAILS(HEIRLOOM_ERROR_FRAME_INTERIOR, heirloom_folio_free(h, folio + 65536, 0));
	FAILS(HEIRLOOM_ERROR_FRAME_NOT_PRESERVED, heirloom_folio_unpreserve(h, folio, 5));
	/* A buffer is no folio, nor is a folio a buffer. */
	FAILS(HEIRLOOM_ERROR_NOT_AN_OBJECT, heirloom_free(h, folio));
	FAILS(HEIRLOOM_ERROR_NOT_AN_OBJECT, heirloom_preserve(h, folio, NULL));
	FAILS(HEIRLOOM_ERROR_FRAME_WRONG_KIND, heirloom_folio_free(h, page, 0));
	FAILS(HEIRLOOM_ERROR_FRAME_WRONG_KIND, heirloom_folio_preserve(h, page, 0, NULL));
	NO_POINTER(HEIRLOOM_ERROR_BAD_HANDLE, heirloom_folio_restore(h, &other, NULL));

	CHECK(heirloom_folio_preserve(h, folio, 5, &handle) == 0);
	FAILS(HEIRLOOM_ERROR_FRAME_ALREADY_PRESERVED, heirloom_folio_preserve(h, folio, 5, NULL));
	FAILS(HEIRLOOM_ERROR_FRAME_PRESERVED, heirloom_folio_free(h, folio, 5));
	NO_POINTER(HEIRLOOM_ERROR_FRAME_NOT_PRESERVED, heirloom_folio_restore(h, &handle, NULL));
	NO_POINTER(HEIRLOOM_ERROR_BAD_HANDLE, heirloom_restore(h, &handle));
	NO_POINTER(HEIRLOOM_ERROR_NULL, heirloom_folio_restore(h, NULL, NULL));
	CHECK(heirloom_folio_unpreserve(h, folio, 5) == 0 && heirloom_folio_free(h, folio, 5) == 0);
	FAILS(HEIRLOOM_ERROR_FRAME_DOUBLE_FREE, heirloom_folio_free(h, folio, 5));
	CHECK(heirloom_unpreserve(h, buffer) == 0 && heirloom_free(h, buffer) == 0 && heirloom_free(h, page) == 0);
}

static void caches(struct heirloom *h)
{
	struct heirloom_cache_spec spec = { .name = "one", .size = 40 }, bad = spec;
	struct heirloom_cache *one = heirloom_cache_create(h, &spec);

	CHECK(one && heirloom_cache_create(h, &spec) == one);
	spec.name = "two";
	struct heirloom_cache *two = heirloom_cache_create(h, &spec);
	char *object = heirloom_cache_alloc(one);

	CHECK(two && two != one && object && heirloom_usable_size(h, object) == 40);
	FAILS(HEIRLOOM_ERROR_WRONG_CACHE, heirloom_cache_free(two, object));
	TELLS("belongs to one, not two");
	FAILS(HEIRLOOM_ERROR_INTERIOR, heirloom_cache_free(one, object + 8));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_cache_free(NULL, object));
	CHECK(heirloom_cache_free(one, NULL) == 0 && heirloom_cache_free(one, object) == 0);
	FAILS(HEIRLOOM_ERROR_DOUBLE_FREE, heirloom_cache_free(one, object));
	FAILS(HEIRLOOM_ERROR_DOUBLE_FREE, heirloom_free(h, object));
	NO_POINTER(HEIRLOOM_ERROR_NULL, heirloom_cache_alloc(NULL));
	NO_POINTER(HEIRLOOM_ERROR_NULL, heirloom_cache_zalloc(NULL));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_cache_each_preserved(one, NULL, NULL));
	CHECK(heirloom_cache_shrink(NULL) == 0 && heirloom_cache_shrink(one) >= 1);

	object = heirloom_cache_alloc(two);
	CHECK(object && heirloom_cache_destroy(NULL) == 0);
	FAILS(HEIRLOOM_ERROR_CACHE_IN_USE, heirloom_cache_destroy(two));
	TELLS("1 objects of two are in use");
	CHECK(heirloom_cache_free(two, object) == 0 && heirloom_cache_destroy(two) == 0);
	FAILS(HEIRLOOM_ERROR_CACHE_DESTROYED, heirloom_cache_destroy(two));
	NO_POINTER(HEIRLOOM_ERROR_CACHE_DESTROYED, heirloom_cache_alloc(two));
	CHECK(heirloom_cache_create(h, &spec) == two && heirloom_cache_alloc(two) != NULL);

	NO_POINTER(HEIRLOOM_ERROR_NULL, heirloom_cache_create(NULL, &spec));
	NO_POINTER(HEIRLOOM_ERROR_NULL, heirloom_cache_create(h, NULL));
	bad.size = 48;
	NO_POINTER(HEIRLOOM_ERROR_MISMATCH, heirloom_cache_create(h, &bad));
	bad = spec, bad.name = NULL;
	NO_POINTER(HEIRLOOM_ERROR_NULL, heirloom_cache_create(h, &bad));
	bad = spec, bad.name = "\xff";
	NO_POINTER(HEIRLOOM_ERROR_NOT_TEXT, heirloom_cache_create(h, &bad));
	bad = spec, bad.name = "buffer-64";
	NO_POINTER(HEIRLOOM_ERROR_RESERVED_NAME, heirloom_cache_create(h, &bad));
	bad = spec, bad.align = 24, bad.name = "three";
	NO_POINTER(HEIRLOOM_ERROR_BAD_SPEC, heirloom_cache_create(h, &bad));
	bad = spec, bad.flags = 4;
	NO_POINTER(HEIRLOOM_ERROR_BAD_CHOICE, heirloom_cache_create(h, &bad));
	bad = spec, bad.flags = HEIRLOOM_CACHE_INHERITED, bad.name = "four";
	NO_POINTER(HEIRLOOM_ERROR_CACHE_NOT_INHERITED, heirloom_cache_adopt(h, &bad, NULL));
	NO_POINTER(HEIRLOOM_ERROR_CACHE_NOT_INHERITED, heirloom_cache_resume(h, &bad));
}

static int constructions;

static void construct(void *object)
{
	memset(object, 0xc5, 72);
	constructions++;
}

/* Each place is constructed once, not each allocation; and no object of such a cache is zeroed. */
static void constructed(struct heirloom *h)
{
	struct heirloom_cache_spec spec = { .name = "constructed", .size = 72, .construct = construct }, bad = spec;
	struct heirloom_cache *cache = heirloom_cache_create(h, &spec);
	unsigned char *object = heirloom_cache_alloc(cache);
	int before = constructions;

	CHECK(object && before > 0 && object[0] == 0xc5 && object[71] == 0xc5);
	CHECK(heirloom_cache_free(cache, object) == 0);
	object = heirloom_cache_alloc(cache);
	CHECK(object && object[0] == 0xc5 && object[71] == 0xc5 && constructions == before);
	NO_POINTER(HEIRLOOM_ERROR_CONSTRUCTED, heirloom_cache_zalloc(cache));
	bad.construct = NULL;
	NO_POINTER(HEIRLOOM_ERROR_MISMATCH, heirloom_cache_create(h, &bad));
	CHECK(heirloom_cache_create(h, &spec) == cache);
	/* Ended and begun again, with a constructor as before. */
	CHECK(heirloom_cache_free(cache, object) == 0 && heirloom_cache_destroy(cache) == 0);
	cache = heirloom_cache_create(h, &spec);
	object = heirloom_cache_alloc(cache);
	CHECK(object && object[71] == 0xc5 && constructions > before);
}

static void names(struct heirloom *h)
{
	char data[8];
	size_t bytes = sizeof(data);

	FAILS(HEIRLOOM_ERROR_NULL, heirloom_publish(NULL, "name", "x", 1));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_publish(h, NULL, "x", 1));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_publish(h, "name", NULL, 1));
	FAILS(HEIRLOOM_ERROR_TOO_MANY, heirloom_publish(h, "name", "x", SIZE_MAX));
	FAILS(HEIRLOOM_ERROR_BAD_NAME, heirloom_publish(h, "", "x", 1));
	FAILS(HEIRLOOM_ERROR_BAD_NAME, heirloom_publish(h, "a/b", "x", 1));
	FAILS(HEIRLOOM_ERROR_NO_SUCH_NAME, heirloom_unpublish(h, "nothing"));
	FAILS(HEIRLOOM_ERROR_NO_SUCH_NAME, heirloom_retrieve(h, "nothing", data, &bytes));
	CHECK(heirloom_publish(h, "empty", NULL, 0) == 0 && heirloom_publish(h, "name", "x", 1) == 0);
	FAILS(HEIRLOOM_ERROR_NOT_INHERITED, heirloom_retrieve(h, "name", data, &bytes));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_retrieve(h, "name", data, NULL));
	CHECK(heirloom_unpublish(h, "empty") == 0);

	int error = 0;
	char many[16];

	for (int n = 0; n < 1000 && !error; n++) {
		snprintf(many, sizeof(many), "many-%d", n);
		error = heirloom_publish(h, many, "x", 1);
	}
	CHECK(error == HEIRLOOM_ERROR_ROOT_FULL && !strcmp(heirloom_strerror(error), "no room for one more name"));
	struct heirloom_stats stats;

	CHECK(heirloom_flush(h) == 1 && heirloom_stats(h, &stats) == 0 && stats.cached == 0);
	CHECK(heirloom_flush(NULL) == 0 && heirloom_last_error() == HEIRLOOM_ERROR_NULL);
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_stats(h, NULL));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_entry(h, NULL));
	CHECK(heirloom_generation(NULL) == 0 && heirloom_last_error() == HEIRLOOM_ERROR_NULL);
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_seal(NULL));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_unseal(NULL));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_resume(NULL));
	FAILS(HEIRLOOM_ERROR_NULL, heirloom_finish(NULL, NULL, NULL, NULL));
}

static void arenas(struct heirloom_arena *arena)
{
	struct heirloom_range range = memory;
	int null = open("/dev/null", O_RDWR), file = open("/proc/self/exe", O_RDONLY);

	CHECK(null > 2 && file > 2);
	NO_POINTER(HEIRLOOM_ERROR_BAD_CHOICE, heirloom_arena_open(-1));
	NO_POINTER(HEIRLOOM_ERROR_SYSTEM, heirloom_arena_open(1000000));
	CHECK(heirloom_arena_open(null) == NULL && heirloom_arena_open(file) == NULL);
	CHECK(close(null) == 0 && close(file) == 0);
	range.start = 1;
	NO_POINTER(HEIRLOOM_ERROR_ARENA_BAD_MAP, heirloom_arena_create("bad", &range, 1));
	NO_POINTER(HEIRLOOM_ERROR_ARENA_BAD_MAP, heirloom_arena_create("none", NULL, 0));
	NO_POINTER(HEIRLOOM_ERROR_NULL, heirloom_arena_create("null", NULL, 1));
	NO_POINTER(HEIRLOOM_ERROR_NULL, heirloom_arena_create(NULL, &memory, 1));
	CHECK(heirloom_arena_fd(NULL) == -1 && heirloom_arena_share(NULL) == -1);
	CHECK(heirloom_arena_has_entry(NULL) == -HEIRLOOM_ERROR_NULL);
	CHECK(heirloom_get_arena(NULL) == NULL && heirloom_arena_close(NULL) == 0);
	heirloom_close(NULL);

	CHECK(heirloom_arena_has_entry(arena) == 0);
	NO_POINTER(HEIRLOOM_ERROR_NO_ENTRY, heirloom_revive_arena(arena, NULL, NULL, HEIRLOOM_SEAL_CHECKED));
	NO_POINTER(HEIRLOOM_ERROR_BAD_CHOICE, heirloom_revive_arena(arena, NULL, NULL, 9));
	struct heirloom_entry nowhere = { .root = 4096, .scratch = 8192, .scratch_bytes = 16 };

	NO_POINTER(HEIRLOOM_ERROR_BAD_TABLE, heirloom_revive_arena(arena, &nowhere, NULL, HEIRLOOM_SEAL_CHECKED));
	NO_POINTER(HEIRLOOM_ERROR_NULL, heirloom_boot_arena(NULL, NULL));

	range = memory, range.bytes = 65536;
	struct heirloom_arena *tiny = heirloom_arena_create("tiny", &range, 1);

	CHECK(tiny && heirloom_boot_arena(tiny, NULL) == NULL && heirloom_arena_close(tiny) == 0);

	/* Another process does not get what this one has. */
	int fd = heirloom_arena_share(arena);
	pid_t child = fork();

	CHECK(fd > 2 && child >= 0);
	if (child == 0)
		_exit(heirloom_arena_open(fd) != NULL || heirloom_last_error() != HEIRLOOM_ERROR_ARENA_IN_USE);
	int status;

	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK(close(fd) == 0);
}

/* What a successor may not do with what it was left. */
static void heirs(struct heirloom_arena *arena)
{
	struct heirloom_cache_spec spec = { .name = "left", .size = 64, .flags = HEIRLOOM_CACHE_PRESERVING };
	struct heirloom_handle stale, object, buffer, forged, zeroes = { { 0 } };
	struct heirloom *h = heirloom_boot_arena(arena, "misuse 0");
	struct heirloom_cache *cache = heirloom_cache_create(h, &spec);

	CHECK(h && cache);
	void *one = heirloom_cache_alloc(cache);

	CHECK(one && heirloom_handle(h, one, &stale) == 0 && heirloom_cache_free(cache, one) == 0);
	CHECK(heirloom_find(h, &stale) == NULL);
	/* Its place, once more. */
	void *others[4096];
	size_t count = 0;

	do {
		CHECK(count < sizeof(others) / sizeof(others[0]));
		others[count] = heirloom_cache_alloc(cache);
	} while (others[count++] != one);
	for (count--; count > 0; count--)
		CHECK(heirloom_cache_free(cache, others[count - 1]) == 0);
	CHECK(heirloom_handle(h, one, &object) == 0);
	CHECK(memcmp(&stale, &object, sizeof(stale)) != 0);
	NO_POINTER(HEIRLOOM_ERROR_STALE, heirloom_find(h, &stale));
	void *two = heirloom_alloc_with(h, 70000, 4096, HEIRLOOM_PRESERVED | HEIRLOOM_ZEROED);

	CHECK(two && heirloom_handle(h, two, &buffer) == 0);
	CHECK(heirloom_publish(h, "left", "x", 1) == 0 && heirloom_seal(h) == 0);
	heirloom_close(h);

	h = heirloom_revive_arena(arena, NULL, "misuse 1", HEIRLOOM_SEAL_ONLY);
	CHECK(h != NULL);
	NO_POINTER(HEIRLOOM_ERROR_BUSY, heirloom_boot_arena(arena, NULL));
	FAILS(HEIRLOOM_ERROR_BUSY, heirloom_arena_close(arena));
	FAILS(HEIRLOOM_ERROR_NAME_TAKEN, heirloom_publish(h, "left", "y", 1));
	NO_POINTER(HEIRLOOM_ERROR_NOT_ADOPTED, heirloom_restore(h, &object));
	uint64_t unclaimed;

	cache = heirloom_cache_adopt(h, &spec, &unclaimed);
	CHECK(cache && unclaimed == 1);
	NO_POINTER(HEIRLOOM_ERROR_ADOPTED, heirloom_cache_resume(h, &spec));
	NO_POINTER(HEIRLOOM_ERROR_STALE, heirloom_restore(h, &stale));
	NO_POINTER(HEIRLOOM_ERROR_BAD_HANDLE, heirloom_restore(h, &zeroes));
	NO_POINTER(HEIRLOOM_ERROR_NULL, heirloom_restore(h, NULL));
	forged = buffer, forged.bytes[3] ^= 1;
	NO_POINTER(HEIRLOOM_ERROR_BAD_HANDLE, heirloom_restore(h, &forged));
	one = heirloom_restore(h, &object);
	two = heirloom_restore(h, &buffer);
	CHECK(one && two);
	NO_POINTER(HEIRLOOM_ERROR_NOT_UNCLAIMED, heirloom_restore(h, &object));
	NO_POINTER(HEIRLOOM_ERROR_FRAME_NOT_PRESERVED, heirloom_restore(h, &buffer));
	CHECK(heirloom_free(h, one) == 0 && heirloom_free(h, two) == 0);
	heirloom_close(h);
}

int main(void)
{
	CHECK(heirloom_last_error() == 0 && heirloom_error_text(NULL, 0) == 0);
	bool found = true;

	CHECK(heirloom_inherited(&found, NULL) == NULL && !found && heirloom_last_error() == 0);
	CHECK(!strcmp(heirloom_strerror(HEIRLOOM_ERROR_OUT_OF_MEMORY), "out of memory"));
	CHECK(!strcmp(heirloom_strerror(-1), "unknown error") && heirloom_errno(-1) == 22 && heirloom_errno(0) == 0);
	struct heirloom_arena *arena = heirloom_arena_create("misuse", &memory, 1);

	CHECK(arena != NULL);
	arenas(arena);
	struct heirloom *h = heirloom_boot_arena(arena, "misuse");

	CHECK(h != NULL);
	buffers(h);
	folios(h);
	caches(h);
	constructed(h);
	names(h);
	heirloom_close(h);
	heirs(arena);
	CHECK(heirloom_arena_close(arena) == 0);
	return 0;
}
