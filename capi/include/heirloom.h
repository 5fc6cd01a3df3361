/*
 * heirloom for C: memory that outlives the kernel, or the process, that allocated it.
 *
 * Made from capi/src by `cargo xtask header`: change it there.
 *
 * Two flavours. Hosted, the default: an arena over a memfd, threads as CPUs, `exec` into the successor; link with
 * `pkg-config --libs heirloom`. Kernel, with HEIRLOOM_KERNEL or __KERNEL__ defined: the kernel provides the functions
 * heirloom_os_*, and links libheirloom.a, built without std.
 *
 * Errors. A call that returns `int` returns 0, or, hosted, a number of enum heirloom_error, and, in a kernel, a negative errno;
 * a call that returns a pointer returns null. heirloom_last_error() then has the number, and heirloom_error_text() says
 * which object, where, and why. Nothing was changed by a call that failed, unless it says so.
 *
 * Arguments. A null pointer where there must be one is HEIRLOOM_ERROR_NULL. Pointers to memory of heirloom's are looked up,
 * and mistakes are told: freed twice, into the middle, of another cache, not restored. What is under "Safety" is not, or not
 * always, and is the caller's to keep.
 *
 * Ownership. What heirloom_alloc(), heirloom_cache_alloc() and heirloom_restore() return is the caller's until it frees it.
 * Texts, handles and structures that are passed in are not kept. Kernels' objects and arenas are the caller's to close; caches
 * need not be destroyed.
 *
 * Threads. Any call may be made from any thread or CPU, at the same time as others, but for heirloom_close() and
 * heirloom_arena_close(), which nothing else goes on beside. "Context" says from where: "any" includes interrupt handlers in a
 * kernel and signal handlers in a process, where calls that would have to wait are refused (HEIRLOOM_ERROR_WOULD_WAIT).
 */

#ifndef HEIRLOOM_H
#define HEIRLOOM_H

#if defined(__KERNEL__)
#include <linux/types.h>
#if !defined(HEIRLOOM_KERNEL)
#define HEIRLOOM_KERNEL 1
#endif
#else
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#endif
#if !defined(HEIRLOOM_KERNEL)
#define HEIRLOOM_HOSTED 1
#endif


/**
 * For heirloom_alloc_with(): filled with zeroes.
 */
#define HEIRLOOM_ZEROED 1

/**
 * For heirloom_alloc_with(): preserved from birth, and let go by heirloom_free() alone.
 */
#define HEIRLOOM_PRESERVED 2

/**
 * For `flags` of a heirloom_cache_spec: every object survives the jump from birth, at no cost for each, until it
 * is freed.
 */
#define HEIRLOOM_CACHE_PRESERVING 1

/**
 * For `flags` of a heirloom_cache_spec: adopting or resuming fails if the predecessor left no such cache, instead
 * of creating one.
 */
#define HEIRLOOM_CACHE_INHERITED 2

#if !defined(HEIRLOOM_HOSTED)
/**
 * The most ranges, scratch areas and busy ranges there can be, each, where metadata lies in scratch.
 */
#define HEIRLOOM_MAX_RANGES 24
#endif

/**
 * A seal that is broken is refused; a handover that is not sealed, or was opened by a successor, is taken. What
 * zeroes mean.
 */
#define HEIRLOOM_SEAL_CHECKED 0

/**
 * A handover that never was sealed is refused too.
 */
#define HEIRLOOM_SEAL_REQUIRED 1

/**
 * Only a handover that is sealed now is taken.
 */
#define HEIRLOOM_SEAL_ONLY 2

/**
 * The seal is not looked at: structure alone is checked.
 */
#define HEIRLOOM_SEAL_IGNORED 3

/**
 * What an unclaimed thing is.
 */
enum heirloom_kind {
  /**
   * What was published under a name: `name`.
   */
  HEIRLOOM_KIND_NAME = 0,
  /**
   * Whole pages: a folio, or a block of a larger buffer.
   */
  HEIRLOOM_KIND_PAGES = 1,
  /**
   * A slab of a cache that was neither adopted nor resumed, with all that is in it: `name` is the cache's.
   */
  HEIRLOOM_KIND_SLAB = 2,
  /**
   * An object of a cache that was adopted, or a small buffer: `name` is the cache's.
   */
  HEIRLOOM_KIND_OBJECT = 3,
};

/**
 * What can go wrong. A number never changes, and stands for one thing: those from 100 on say of whole
 * frames what those from 200 on say of objects and buffers, 300 of the handover, 400 of an arena,
 * 450 of what a predecessor passed on. New ones may come.
 */
enum heirloom_error {
  /**
   * Nothing went wrong.
   */
  HEIRLOOM_ERROR_OK = 0,
  /**
   * A pointer that must lead to something is null.
   */
  HEIRLOOM_ERROR_NULL = 1,
  /**
   * A text is not UTF-8.
   */
  HEIRLOOM_ERROR_NOT_TEXT = 2,
  /**
   * The caller's room is too small for what it asked for.
   */
  HEIRLOOM_ERROR_TOO_SMALL = 3,
  /**
   * A flag, or a number that stands for a choice, is none that this build knows.
   */
  HEIRLOOM_ERROR_BAD_CHOICE = 4,
  /**
   * Something still uses it: a kernel its arena.
   */
  HEIRLOOM_ERROR_BUSY = 5,
  /**
   * An address or a length that is no multiple of what it must be.
   */
  HEIRLOOM_ERROR_MISALIGNED = 6,
  /**
   * More than this build has room for.
   */
  HEIRLOOM_ERROR_TOO_MANY = 7,
  /**
   * The operating system refused; the text has its reason.
   */
  HEIRLOOM_ERROR_SYSTEM = 8,
  /**
   * No entry was left in the arena: it was never booted.
   */
  HEIRLOOM_ERROR_NO_ENTRY = 9,
  /**
   * The direct map does not cover a range.
   */
  HEIRLOOM_ERROR_OUTSIDE_MAP = 10,
  /**
   * No free block is this large.
   */
  HEIRLOOM_ERROR_OUT_OF_MEMORY = 100,
  /**
   * No free run has so many frames.
   */
  HEIRLOOM_ERROR_NO_RUN = 101,
  /**
   * No memory could meet the request.
   */
  HEIRLOOM_ERROR_BAD_REQUEST = 102,
  /**
   * The frame is in no memory range.
   */
  HEIRLOOM_ERROR_NOT_MEMORY = 103,
  /**
   * The frames are not all free.
   */
  HEIRLOOM_ERROR_NOT_FREE = 104,
  /**
   * The frames are free already.
   */
  HEIRLOOM_ERROR_FRAME_DOUBLE_FREE = 105,
  /**
   * The frames were never handed out.
   */
  HEIRLOOM_ERROR_FRAME_NEVER_ALLOCATED = 106,
  /**
   * The frame lies inside a block that starts elsewhere.
   */
  HEIRLOOM_ERROR_FRAME_INTERIOR = 107,
  /**
   * The block has another size.
   */
  HEIRLOOM_ERROR_FRAME_WRONG_ORDER = 108,
  /**
   * The run of frames has another length.
   */
  HEIRLOOM_ERROR_FRAME_WRONG_LENGTH = 109,
  /**
   * The frames are used for something else.
   */
  HEIRLOOM_ERROR_FRAME_WRONG_KIND = 110,
  /**
   * The frames are preserved: unpreserve them first.
   */
  HEIRLOOM_ERROR_FRAME_PRESERVED = 111,
  /**
   * The frames are preserved already.
   */
  HEIRLOOM_ERROR_FRAME_ALREADY_PRESERVED = 112,
  /**
   * The frames are not preserved, or claimed already.
   */
  HEIRLOOM_ERROR_FRAME_NOT_PRESERVED = 113,
  /**
   * Another call has what would be claimed set aside.
   */
  HEIRLOOM_ERROR_PREDECESSOR_BUSY = 114,
  /**
   * A new range overlaps one that is there.
   */
  HEIRLOOM_ERROR_RANGE_OVERLAPS = 115,
  /**
   * A range without frames.
   */
  HEIRLOOM_ERROR_BAD_RANGE = 116,
  /**
   * The space given for metadata is too small or misaligned.
   */
  HEIRLOOM_ERROR_BAD_SPACE = 117,
  /**
   * The predecessor's tree is not sound.
   */
  HEIRLOOM_ERROR_BAD_TREE = 118,
  /**
   * The page is absent: it must come online first.
   */
  HEIRLOOM_ERROR_ABSENT = 119,
  /**
   * The page is not absent: it cannot come online.
   */
  HEIRLOOM_ERROR_NOT_ABSENT = 120,
  /**
   * No cache can be like this.
   */
  HEIRLOOM_ERROR_BAD_SPEC = 200,
  /**
   * A cache of this name is another.
   */
  HEIRLOOM_ERROR_MISMATCH = 201,
  /**
   * The name is kept for size classes.
   */
  HEIRLOOM_ERROR_RESERVED_NAME = 202,
  /**
   * The predecessor left no cache of this name.
   */
  HEIRLOOM_ERROR_CACHE_NOT_INHERITED = 203,
  /**
   * There are as many caches as can be.
   */
  HEIRLOOM_ERROR_TOO_MANY_CACHES = 204,
  /**
   * No buffer has this size and alignment.
   */
  HEIRLOOM_ERROR_BAD_LAYOUT = 205,
  /**
   * The direct map does not keep the alignment.
   */
  HEIRLOOM_ERROR_BAD_MAP = 206,
  /**
   * A handler made the call in the middle of another one, and it needs the lock that the other holds.
   */
  HEIRLOOM_ERROR_WOULD_WAIT = 207,
  /**
   * The cache's objects are constructed, not zero.
   */
  HEIRLOOM_ERROR_CONSTRUCTED = 208,
  /**
   * No object or buffer is there.
   */
  HEIRLOOM_ERROR_NOT_AN_OBJECT = 209,
  /**
   * The pointer leads into an object or buffer, not to its start.
   */
  HEIRLOOM_ERROR_INTERIOR = 210,
  /**
   * The object belongs to another cache.
   */
  HEIRLOOM_ERROR_WRONG_CACHE = 211,
  /**
   * The object is free already.
   */
  HEIRLOOM_ERROR_DOUBLE_FREE = 212,
  /**
   * The object is preserved: unpreserve it first.
   */
  HEIRLOOM_ERROR_PRESERVED = 213,
  /**
   * The object is preserved already.
   */
  HEIRLOOM_ERROR_ALREADY_PRESERVED = 214,
  /**
   * The object is not preserved.
   */
  HEIRLOOM_ERROR_NOT_PRESERVED = 215,
  /**
   * The object is the predecessor's: claim it first.
   */
  HEIRLOOM_ERROR_UNCLAIMED = 216,
  /**
   * The object is claimed already, or never was the predecessor's.
   */
  HEIRLOOM_ERROR_NOT_UNCLAIMED = 217,
  /**
   * The object is free, or not claimed.
   */
  HEIRLOOM_ERROR_NOT_IN_USE = 218,
  /**
   * The cache was adopted, and cannot be resumed.
   */
  HEIRLOOM_ERROR_ADOPTED = 219,
  /**
   * No cache has adopted the object's slab.
   */
  HEIRLOOM_ERROR_NOT_ADOPTED = 220,
  /**
   * The object has another length than the handle says.
   */
  HEIRLOOM_ERROR_WRONG_LENGTH = 221,
  /**
   * The handle is of an earlier object in the same place.
   */
  HEIRLOOM_ERROR_STALE = 222,
  /**
   * Something wrote where it must not.
   */
  HEIRLOOM_ERROR_OVERWRITTEN = 223,
  /**
   * A predecessor's slab is not sound.
   */
  HEIRLOOM_ERROR_BAD_SLAB = 224,
  /**
   * The predecessor's cache directory is not sound.
   */
  HEIRLOOM_ERROR_BAD_DIRECTORY = 225,
  /**
   * Something of the cache is in use, to be claimed, or looked at: it cannot be destroyed.
   */
  HEIRLOOM_ERROR_CACHE_IN_USE = 226,
  /**
   * The cache was destroyed.
   */
  HEIRLOOM_ERROR_CACHE_DESTROYED = 227,
  /**
   * The handover changed since it was sealed.
   */
  HEIRLOOM_ERROR_SEAL_BROKEN = 300,
  /**
   * The handover is not sealed, and had to be.
   */
  HEIRLOOM_ERROR_NOT_SEALED = 301,
  /**
   * A table of the predecessor's is not sound.
   */
  HEIRLOOM_ERROR_BAD_TABLE = 302,
  /**
   * The bytes are no handle, or one of another kind.
   */
  HEIRLOOM_ERROR_BAD_HANDLE = 303,
  /**
   * There is no room for one more name.
   */
  HEIRLOOM_ERROR_ROOT_FULL = 304,
  /**
   * The name is taken.
   */
  HEIRLOOM_ERROR_NAME_TAKEN = 305,
  /**
   * There is nothing of this name.
   */
  HEIRLOOM_ERROR_NO_SUCH_NAME = 306,
  /**
   * The name is empty, too long, or has a character that no name has.
   */
  HEIRLOOM_ERROR_BAD_NAME = 307,
  /**
   * A table has no room for more.
   */
  HEIRLOOM_ERROR_TABLE_FULL = 308,
  /**
   * The frames cannot be what they were given for.
   */
  HEIRLOOM_ERROR_BAD_RUN = 309,
  /**
   * A block of an area has another size than the area's.
   */
  HEIRLOOM_ERROR_AREA_WRONG_ORDER = 310,
  /**
   * The predecessor left nothing there that can be claimed so, or it is claimed already.
   */
  HEIRLOOM_ERROR_NOT_INHERITED = 311,
  /**
   * The memory is too small for a handover.
   */
  HEIRLOOM_ERROR_MEMORY_TOO_SMALL = 312,
  /**
   * Scratch is too small for the metadata.
   */
  HEIRLOOM_ERROR_SCRATCH_TOO_SMALL = 313,
  /**
   * A scratch area is not memory.
   */
  HEIRLOOM_ERROR_SCRATCH_NOT_MEMORY = 314,
  /**
   * The frames given for metadata are partly something else.
   */
  HEIRLOOM_ERROR_METADATA_IN_USE = 315,
  /**
   * The frames of a name are not preserved.
   */
  HEIRLOOM_ERROR_NAME_NOT_PRESERVED = 316,
  /**
   * The operating system refused an arena.
   */
  HEIRLOOM_ERROR_ARENA_SYSTEM = 400,
  /**
   * The operating system refused to map an arena.
   */
  HEIRLOOM_ERROR_ARENA_MAP = 401,
  /**
   * The arena's name is too long.
   */
  HEIRLOOM_ERROR_ARENA_NAME = 402,
  /**
   * Another process has the arena.
   */
  HEIRLOOM_ERROR_ARENA_IN_USE = 403,
  /**
   * The system's pages are larger than heirloom's.
   */
  HEIRLOOM_ERROR_ARENA_PAGE = 404,
  /**
   * The descriptor is no memfd.
   */
  HEIRLOOM_ERROR_ARENA_NOT_MEMFD = 405,
  /**
   * The memfd is not sealed.
   */
  HEIRLOOM_ERROR_ARENA_NOT_SEALED = 406,
  /**
   * The arena's memory map is not sound, or what was asked for is none.
   */
  HEIRLOOM_ERROR_ARENA_BAD_MAP = 407,
  /**
   * More bytes than can be mapped.
   */
  HEIRLOOM_ERROR_ARENA_SPAN = 408,
  /**
   * The frames are not in one range of the arena.
   */
  HEIRLOOM_ERROR_ARENA_NOT_IN = 409,
  /**
   * There is nothing to map.
   */
  HEIRLOOM_ERROR_ARENA_EMPTY = 410,
  /**
   * The entry in the arena is not whole.
   */
  HEIRLOOM_ERROR_ARENA_BAD_ENTRY = 411,
  /**
   * What the predecessor passed on is no text.
   */
  HEIRLOOM_ERROR_JUMP_NOT_TEXT = 450,
  /**
   * What the predecessor passed on has another version.
   */
  HEIRLOOM_ERROR_JUMP_VERSION = 451,
  /**
   * What the predecessor passed on lacks a field.
   */
  HEIRLOOM_ERROR_JUMP_MISSING = 452,
  /**
   * What the predecessor passed on has a field without a value.
   */
  HEIRLOOM_ERROR_JUMP_MALFORMED = 453,
  /**
   * What the predecessor passed on has something behind its last field.
   */
  HEIRLOOM_ERROR_JUMP_TRAILING = 454,
  /**
   * The descriptor that the predecessor passed on is not open.
   */
  HEIRLOOM_ERROR_JUMP_NOT_OPEN = 455,
  /**
   * The descriptor that the predecessor passed on is no arena.
   */
  HEIRLOOM_ERROR_JUMP_NOT_MEMORY = 456,
  /**
   * What the predecessor passed on was taken before.
   */
  HEIRLOOM_ERROR_JUMP_TAKEN = 457,
};

/**
 * Memory that outlives its kernel: buffers, caches, and what is handed over.
 */
struct heirloom;

#if defined(HEIRLOOM_HOSTED)
/**
 * Physical memory made of a memfd, for this process and its successors. One process at a time has it.
 */
struct heirloom_arena;
#endif

/**
 * A cache. It stays until heirloom_cache_destroy(), or as long as its kernel's object.
 */
struct heirloom_cache;

/**
 * A range of physical memory.
 */
struct heirloom_range {
  /**
   * The physical address of the first byte: a multiple of the page size.
   */
  uint64_t start;
  /**
   * How many bytes: a multiple of the page size.
   */
  uint64_t bytes;
  /**
   * The NUMA node that it belongs to: 0 where there is one alone.
   */
  uint16_t node;
};

/**
 * All that passes from a kernel to its successor beside memory itself. It is fixed at the first boot and holds for
 * all successors.
 */
struct heirloom_entry {
  /**
   * The physical address of the root page.
   */
  uint64_t root;
  /**
   * The physical address of the scratch list.
   */
  uint64_t scratch;
  /**
   * Bytes of the scratch list.
   */
  uint64_t scratch_bytes;
};

/**
 * Sixteen bytes that name a buffer or an object, for the successor to restore it by. They can be
 * copied, stored in memory that survives, and published.
 */
struct heirloom_handle {
  /**
   * The bytes, the same for every build and machine.
   */
  uint8_t bytes[16];
};

/**
 * What a cache is to be like. All zeroes but for name and size is a plain one.
 */
struct heirloom_cache_spec {
  /**
   * Its name, by which a successor finds it: 1 to 31 bytes of UTF-8. `buffer-` and `preserved-` are no beginnings.
   */
  const char *name;
  /**
   * Bytes of an object, up to 512 KiB.
   */
  size_t size;
  /**
   * The alignment of an object, a power of two; 0: 8 bytes, or less if the size is no multiple of that.
   */
  size_t align;
  /**
   * A number that changes when the objects' layout does: a successor with another is refused them. 0: one made
   * of size and alignment.
   */
  uint64_t fingerprint;
  /**
   * HEIRLOOM_CACHE_PRESERVING, HEIRLOOM_CACHE_INHERITED, both, or 0.
   */
  uint32_t flags;
  /**
   * Called once for each place in a slab, when the slab is made or adopted, and not at each allocation; null: not
   * at all. An object that is allocated is as this left it, or as the caller that freed it before did, which
   * has to be the same. Objects that a predecessor left are not constructed again.
   *
   * No lock is held meanwhile: it may allocate and free. Called from wherever a call of the cache is made, by
   * several threads or processors at once. One in C++ must not throw.
   */
  void (*construct)(void *object);
};

/**
 * Called for an object, with its handle and the context that was given. What is not 0 ends the walk.
 *
 * No lock is held meanwhile: it may call anything, heirloom_restore() with the handle too. One in C++ must not throw:
 * hl::cache::each_preserved() and each_unclaimed() of heirloom.hpp call what may.
 */
typedef int (*heirloom_each)(const struct heirloom_handle *handle, void *context);

/**
 * Objects of a cache that are set aside: see heirloom_cache_reserve(). The caller has room for it, and does not move it.
 */
struct heirloom_reservation {
  /**
   * heirloom's own.
   */
  uint64_t words[8];
};

/**
 * Something that a predecessor preserved and that was not claimed.
 */
struct heirloom_unclaimed {
  /**
   * What it is.
   */
  enum heirloom_kind kind;
  /**
   * Preserved objects in a slab; 0 of all else.
   */
  uint32_t objects;
  /**
   * The physical address of its first byte.
   */
  uint64_t addr;
  /**
   * How many bytes; 0 if that is not known.
   */
  uint64_t bytes;
  /**
   * Its name, or its cache's; empty for pages.
   */
  char name[40];
};

/**
 * Says what becomes of an unclaimed thing: it is freed if the function returns 0, and stays preserved, to be
 * claimed in this kernel or the next, if it returns anything else. `unclaimed` is there during the call alone.
 *
 * No lock is held meanwhile: it may call anything, heirloom_restore() too. One in C++ must not throw: hl::memory::finish()
 * of heirloom.hpp calls what may.
 */
typedef int (*heirloom_fate)(const struct heirloom_unclaimed *unclaimed, void *context);

/**
 * How much was not claimed.
 */
struct heirloom_finished {
  /**
   * Names that were not retrieved.
   */
  uint64_t names;
  /**
   * Blocks of whole pages that were not claimed.
   */
  uint64_t blocks;
  /**
   * Pages in them.
   */
  uint64_t pages;
  /**
   * Slabs of caches that were neither adopted nor resumed.
   */
  uint64_t slabs;
  /**
   * Objects that were not claimed, in slabs that were adopted.
   */
  uint64_t objects;
};

#if !defined(HEIRLOOM_HOSTED)
/**
 * What a kernel boots or revives with. What is not needed is zero.
 */
struct heirloom_config {
  /**
   * Where physical address `direct_map_start` is seen: a map with one offset, valid for reads and writes wherever there
   * are ranges, and as aligned as what it shows.
   */
  void *direct_map;
  /**
   * The first physical address of the direct map.
   */
  uint64_t direct_map_start;
  /**
   * Bytes of the direct map.
   */
  uint64_t direct_map_bytes;
  /**
   * How many CPUs there can be: one more than the highest number that heirloom_os_pin() returns. Another number in
   * the successor is fine.
   */
  uint32_t cpus;
  /**
   * One of HEIRLOOM_SEAL_..., for heirloom_revive().
   */
  uint32_t seal;
  /**
   * The memory: without what firmware, devices or the kernel's own image occupy. Neighbours on one node are given as one
   * range, best.
   */
  const struct heirloom_range *ranges;
  /**
   * How many ranges.
   */
  size_t range_count;
  /**
   * Memory that is known and absent: its pages come and go, with heirloom_online() and heirloom_offline(). The direct map
   * has a place for it. With `metadata` alone.
   */
  const struct heirloom_range *absent;
  /**
   * How many such ranges.
   */
  size_t absent_count;
  /**
   * What of it is online from the start: with heirloom_revive(), all that the predecessor had.
   */
  const struct heirloom_range *online;
  /**
   * How many runs are.
   */
  size_t online_count;
  /**
   * For heirloom_boot(): parts of the ranges in which nothing is ever preserved, so that successors may work there before
   * they have read what is. Without `metadata`, one holds that.
   */
  const struct heirloom_range *scratch;
  /**
   * How many scratch areas.
   */
  size_t scratch_count;
  /**
   * Room for the metadata in memory that no range has, and that stays. Null: it goes into the largest scratch area.
   */
  void *metadata;
  /**
   * Bytes there: heirloom_metadata_bytes() at least.
   */
  size_t metadata_bytes;
  /**
   * Where metadata goes into scratch: what is in use there already, such as this kernel's image.
   */
  const struct heirloom_range *busy;
  /**
   * How many busy ranges.
   */
  size_t busy_count;
  /**
   * This kernel's name, which the successor is told; null: none.
   */
  const char *producer;
};

/**
 * Room for a lock of the kernel's: 32 bytes, all zeroes before it is locked for the first time, and at the same place as
 * long as it is used. A lock that needs more is made at the first call, and a pointer to it kept here.
 */
struct heirloom_lock {
  uint64_t words[4];
};

/**
 * Room for a mutex of the kernel's: 64 bytes, as a heirloom_lock.
 */
struct heirloom_mutex {
  uint64_t words[8];
};
#endif

/**
 * How many pages are in which state: `pages == free + cached + used`.
 */
struct heirloom_stats {
  /**
   * Bytes of a page.
   */
  uint64_t page_bytes;
  /**
   * Pages that there are.
   */
  uint64_t pages;
  /**
   * Free pages, outside the CPUs' caches.
   */
  uint64_t free;
  /**
   * Pages that are known and absent: see heirloom_online().
   */
  uint64_t absent;
  /**
   * Free pages in the CPUs' caches.
   */
  uint64_t cached;
  /**
   * Pages in use: allocated, reserved, slabs, tables.
   */
  uint64_t used;
  /**
   * Pages that survive the jump, of those in use.
   */
  uint64_t preserved;
  /**
   * Objects and buffers that stayed in use, because the end of their owner could not free them.
   */
  uint64_t refused_frees;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

#if defined(HEIRLOOM_HOSTED)
/**
 * Creates an arena with these ranges of physical memory, all zeroes. Nothing is spent on a page until it is touched.
 * `name` is for a reader of `/proc/self/maps`.
 *
 * @return the arena, to be closed by heirloom_arena_close(). Null if it cannot be: HEIRLOOM_ERROR_ARENA_BAD_MAP,
 * _ARENA_NAME, _ARENA_SYSTEM, _ARENA_MAP, ...
 *
 * Safety:
 * `name` ends with a zero byte; `ranges` has `count` ranges. Neither is kept.
 */
struct heirloom_arena *heirloom_arena_create(const char *name,
                                             const struct heirloom_range *ranges,
                                             size_t count);

/**
 * Opens the arena that a descriptor refers to. The descriptor stays the caller's, which can close it afterwards.
 *
 * @return the arena, to be closed by heirloom_arena_close(). Null if it is none, or another process has it
 * (HEIRLOOM_ERROR_ARENA_IN_USE).
 */
struct heirloom_arena *heirloom_arena_open(int fd);

/**
 * Closes an arena; nothing if it is null. The memory lasts as long as a descriptor of it.
 *
 * @return 0, or HEIRLOOM_ERROR_BUSY as long as a kernel's object is over it: close that first.
 *
 * Safety:
 * `arena` is from a call that returned it, and not used any more if this returns 0.
 */
int heirloom_arena_close(struct heirloom_arena *arena);

/**
 * Returns the descriptor of the arena's memory, which stays the arena's; -1 if `arena` is null. A duplicate
 * that is passed to another process is all that this needs to open the arena, and to revive
 * (heirloom_revive_arena()).
 *
 * Safety:
 * `arena` is from a call that returned it, and not closed.
 */
int heirloom_arena_fd(const struct heirloom_arena *arena);

/**
 * Returns a new descriptor of the arena's memory, the caller's to close, which closes on exec; -1 if there is none.
 *
 * Safety:
 * `arena` is from a call that returned it, and not closed.
 */
int heirloom_arena_share(const struct heirloom_arena *arena);

/**
 * Boots over a new arena: all of its memory is free but for scratch, which is taken from its largest range. `producer` is
 * told to the successor; null: none. The entry is left in the arena, so that its descriptor is all that a
 * successor needs.
 *
 * @return the kernel's object, to be closed by heirloom_close(). Null if it cannot be: HEIRLOOM_ERROR_BUSY (there is
 * one over the arena), _SCRATCH_TOO_SMALL, _MEMORY_TOO_SMALL.
 *
 * Safety:
 * `arena` is from a call that returned it, not closed, and is closed after the object. Nothing else uses its
 * memory. `producer` is null, or ends with a zero byte.
 */
struct heirloom *heirloom_boot_arena(struct heirloom_arena *arena,
                                     const char *producer);

/**
 * Takes over the arena from a predecessor, and goes on with its handover: checks all of it first. All that was
 * preserved is there to be restored, whatever ended the predecessor, and at whatever instant this one ends.
 *
 * @param entry the predecessor's, or null: the one that was left in the arena.
 * @param seal one of HEIRLOOM_SEAL_...: HEIRLOOM_SEAL_CHECKED suits most.
 * @return the kernel's object, to be closed by heirloom_close(). Null if it cannot be: HEIRLOOM_ERROR_NO_ENTRY, _BUSY,
 * or what is wrong with the handover (_BAD_TABLE, _BAD_TREE, _SEAL_BROKEN, ...), which stays as it was.
 *
 * Safety:
 * As for heirloom_boot_arena(); `entry` is null, or leads to one.
 */
struct heirloom *heirloom_revive_arena(struct heirloom_arena *arena,
                                       const struct heirloom_entry *entry,
                                       const char *producer,
                                       uint32_t seal);

/**
 * Ends a kernel's object; nothing if it is null. What was preserved stays so, and everything else of the memory is
 * lost: its buffers and caches are not used any more. A process that ends, or jumps, need not call it.
 *
 * Safety:
 * `h` is from a call that boots or revives; neither it nor memory of it is used any more, by any thread.
 */
void heirloom_close(struct heirloom *h);

/**
 * Returns the arena that a kernel's object is over, which stays its owner's; null if `h` is null.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed.
 */
struct heirloom_arena *heirloom_get_arena(struct heirloom *h);

/**
 * Returns whether the arena's memory has a handover: 1 if it was ever booted, 0 if not; less than 0 if it cannot be
 * told.
 *
 * Safety:
 * `arena` is from a call that returned it, and not closed.
 */
int heirloom_arena_has_entry(const struct heirloom_arena *arena);
#endif

/**
 * Allocates `bytes` bytes, aligned to 16, with whatever they contain. The caller owns them until heirloom_free().
 * From a page on they are whole pages, and aligned to a page.
 *
 * @return null if there is no memory, or if `bytes` is 0: heirloom_last_error().
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed.
 */
void *heirloom_alloc(struct heirloom *h,
                     size_t bytes);

/**
 * Allocates as heirloom_alloc() does, and fills the bytes with zeroes.
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_alloc().
 */
void *heirloom_zalloc(struct heirloom *h, size_t bytes);

/**
 * Allocates `bytes` bytes aligned to `align`, a power of two; `flags` are HEIRLOOM_ZEROED, HEIRLOOM_PRESERVED,
 * both, or 0.
 *
 * @return null as heirloom_alloc(), or for an alignment or flags that cannot be.
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_alloc().
 */
void *heirloom_alloc_with(struct heirloom *h,
                          size_t bytes,
                          size_t align,
                          uint32_t flags);

/**
 * Frees a buffer, or an object of any cache; nothing if `ptr` is null. What was preserved since it was allocated
 * is to be unpreserved first; what was preserved from birth, or restored, is let go by this.
 *
 * @return 0, or an error, and the memory stays its owner's: HEIRLOOM_ERROR_DOUBLE_FREE, _INTERIOR, _PRESERVED,
 * _NOT_AN_OBJECT, _UNCLAIMED; of whole pages _FRAME_PRESERVED and the like.
 *
 * Context: any, on any CPU, interrupt handlers included (not NMIs).
 *
 * Safety:
 * The caller owns what `ptr` leads to, if that is memory of `h` at all, and does not use it any more; no
 * other call frees, preserves or resizes it at the same time. `h` as for heirloom_alloc().
 */
int heirloom_free(struct heirloom *h,
                  void *ptr);

/**
 * Gives a buffer another size, and moves it if it has to; allocates one if `ptr` is null. What lies behind the old
 * size is not initialised. What was preserved from birth, or restored, survives where it moves to.
 *
 * @return the buffer. Null if it cannot be, for `bytes` 0 too: `ptr` is as it was, and its owner's. A buffer that
 * was preserved since it was allocated does not move: HEIRLOOM_ERROR_PRESERVED, or _FRAME_PRESERVED.
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_free(); if another pointer is returned, `ptr` is not used any more.
 */
void *heirloom_realloc(struct heirloom *h,
                       void *ptr,
                       size_t bytes);

/**
 * Returns how many bytes the buffer or object has, at least as many as were asked for; all are the owner's. 0 if no
 * buffer or object in use starts there.
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_alloc(). Any pointer may be asked about.
 */
size_t heirloom_usable_size(struct heirloom *h,
                            const void *ptr);

/**
 * Makes a buffer or an object survive the jump from now on, whatever ends this kernel, and writes the handle that the
 * successor restores it by (unless `handle` is null).
 *
 * @return 0, or an error, and nothing is preserved: HEIRLOOM_ERROR_ALREADY_PRESERVED, _OUT_OF_MEMORY,
 * _DOUBLE_FREE, _INTERIOR, _NOT_AN_OBJECT; of whole pages _FRAME_ALREADY_PRESERVED and the like.
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_free(); and `handle` is null, or has room for one.
 */
int heirloom_preserve(struct heirloom *h,
                      void *ptr,
                      struct heirloom_handle *handle);

/**
 * Lets a buffer or an object go: it no longer survives, its handle names nothing any more, and it can be freed.
 *
 * @return 0, or an error: HEIRLOOM_ERROR_NOT_PRESERVED and those of heirloom_free().
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_free().
 */
int heirloom_unpreserve(struct heirloom *h,
                        void *ptr);

/**
 * Writes the handle of a buffer or an object in use: good for the successor if it is preserved, from birth
 * or since. It stays the same until the memory is freed, over any number of successors.
 *
 * @return 0, or an error: HEIRLOOM_ERROR_NOT_AN_OBJECT.
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_alloc(). Any pointer may be asked about; `handle` has room for one.
 */
int heirloom_handle(struct heirloom *h, const void *ptr, struct heirloom_handle *handle);

/**
 * Claims a buffer that the predecessor preserved, or an object of a cache that was adopted; once. It is the caller's
 * from now on, survives the next jump too, and goes by heirloom_free(), or stays without surviving after
 * heirloom_unpreserve(). Its handle stays the same.
 *
 * @return where it is. Null for what is no handle of a buffer or object (HEIRLOOM_ERROR_BAD_HANDLE), an earlier object
 * in the same place (_STALE), another length, what is claimed already (_NOT_UNCLAIMED, _FRAME_NOT_PRESERVED),
 * or a cache that was not adopted (_NOT_ADOPTED): nothing is changed then.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * As for heirloom_alloc(); `handle` leads to one. Its bytes may be any.
 */
void *heirloom_restore(struct heirloom *h,
                       const struct heirloom_handle *handle);

/**
 * Returns where the buffer or object of a handle is, if it is in use: restored, resumed, or allocated by this
 * kernel. As often as one likes: nothing is claimed. Null otherwise.
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_restore().
 */
void *heirloom_find(struct heirloom *h, const struct heirloom_handle *handle);

/**
 * Takes into use all small buffers that the predecessor preserved, as they are: none is to be restored. Large ones,
 * from a page on, are restored each by its handle.
 *
 * @return 0, or an error: HEIRLOOM_ERROR_ADOPTED if a small buffer was restored before.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * As for heirloom_alloc().
 */
int heirloom_resume(struct heirloom *h);

/**
 * Returns the cache of this name, which is created if there is none. What a predecessor's cache of the same name has left
 * stays as it is: see heirloom_cache_adopt() and heirloom_cache_resume().
 *
 * @return null if it cannot be: HEIRLOOM_ERROR_BAD_SPEC, _MISMATCH (there is one, of another size, alignment or
 * fingerprint, or with a constructor where this has none), _RESERVED_NAME, _OUT_OF_MEMORY.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed. `spec` leads to one, and its name to a text that
 * ends with a zero byte; neither is kept. Its constructor, if it has one, is there as long as the cache.
 */
struct heirloom_cache *heirloom_cache_create(struct heirloom *h,
                                             const struct heirloom_cache_spec *spec);

/**
 * Returns the cache of this name, with the slabs that the predecessor's cache of that name left: each of its objects is to
 * be restored by its handle, with heirloom_restore(). The cache is created if there was none.
 *
 * @param unclaimed how many objects are there to be restored; may be null.
 * @return null as heirloom_cache_create(); also if a slab of the predecessor's is not sound (_BAD_SLAB).
 *
 * Context: where one may sleep.
 *
 * Safety:
 * As for heirloom_cache_create(); `unclaimed` is null, or has room for one.
 */
struct heirloom_cache *heirloom_cache_adopt(struct heirloom *h,
                                            const struct heirloom_cache_spec *spec,
                                            uint64_t *unclaimed);

/**
 * Returns the cache of this name, with all objects that the predecessor's cache of that name left in use as they were:
 * none is to be restored, and none costs anything. The cache is created if there was none.
 *
 * For an owner that finds its objects by physical addresses, or handles and heirloom_find(), in memory that survives.
 *
 * @return null as heirloom_cache_create(); also if it was adopted before (_ADOPTED).
 *
 * Context: where one may sleep.
 *
 * Safety:
 * As for heirloom_cache_create().
 */
struct heirloom_cache *heirloom_cache_resume(struct heirloom *h,
                                             const struct heirloom_cache_spec *spec);

/**
 * Allocates an object, with whatever it contains. The caller owns it until heirloom_cache_free().
 *
 * @return null if there is no memory: heirloom_last_error().
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * `c` is from a call that returned it, and its kernel's object is not closed.
 */
void *heirloom_cache_alloc(struct heirloom_cache *c);

/**
 * Allocates an object filled with zeroes, as heirloom_cache_alloc().
 *
 * @return null also if the cache has a constructor: HEIRLOOM_ERROR_CONSTRUCTED.
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_cache_alloc().
 */
void *heirloom_cache_zalloc(struct heirloom_cache *c);

/**
 * Frees an object of this cache; nothing if `ptr` is null.
 *
 * @return 0, or an error as heirloom_free(), and HEIRLOOM_ERROR_WRONG_CACHE: the object stays its owner's.
 *
 * Context: any, on any CPU, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_cache_alloc(); the caller owns what `ptr` leads to, if that is memory of heirloom's at all, and
 * does not use it any more; no other call frees or preserves it at the same time.
 */
int heirloom_cache_free(struct heirloom_cache *c,
                        void *ptr);

/**
 * Gives back what the cache does not need: what this CPU keeps of free objects goes to their slabs, and slabs without
 * objects become free memory. Returns how many slabs.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * As for heirloom_cache_alloc().
 */
uint64_t heirloom_cache_shrink(struct heirloom_cache *c);

/**
 * Ends a cache: gives back all of its memory but for what the next cache of the same name and layout takes up again. Nothing
 * if it is null. What remains of a cache that is not destroyed ends with the kernel's object.
 *
 * @return 0, or an error, and the cache goes on: HEIRLOOM_ERROR_CACHE_IN_USE (an object is in use, or the predecessor's and
 * not claimed), _CACHE_DESTROYED.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * As for heirloom_cache_alloc(); nothing else uses the cache during the call, on any CPU, or asks for it by its name. If it
 * returns 0, nothing uses it later.
 */
int heirloom_cache_destroy(struct heirloom_cache *c);

/**
 * Calls `each` with the handle of every object of the cache that the predecessor left and that is not restored.
 * What is restored or freed meanwhile may or may not be among them.
 *
 * @return 0, or an error: HEIRLOOM_ERROR_NULL.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * As for heirloom_cache_alloc(); `each` can be called with `context`.
 */
int heirloom_cache_each_unclaimed(struct heirloom_cache *c,
                                  heirloom_each each,
                                  void *context);

/**
 * Calls `each` with the handle of every object of the cache that is in use and survives the jump: what
 * heirloom_find() finds. What changes meanwhile may or may not be among them.
 *
 * @return 0, or an error: HEIRLOOM_ERROR_NULL.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * As for heirloom_cache_each_unclaimed().
 */
int heirloom_cache_each_preserved(struct heirloom_cache *c, heirloom_each each, void *context);

/**
 * Sets objects aside: as many calls of heirloom_reserved_alloc() cannot fail, whatever others do meanwhile. Of a preserving
 * cache what they return survives from then on, for an owner that is to preserve in the middle of something.
 *
 * @param reservation room for it; ended by heirloom_unreserve().
 * @return 0, or an error, and nothing is set aside, nor to be ended: HEIRLOOM_ERROR_OUT_OF_MEMORY.
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_cache_alloc(); `reservation` has room for one.
 */
int heirloom_cache_reserve(struct heirloom_cache *c,
                           size_t objects,
                           struct heirloom_reservation *reservation);

/**
 * Allocates one of the objects that were set aside, with whatever it contains. It is the caller's until heirloom_cache_free(),
 * like any other of the cache. Takes no lock.
 *
 * @return null once as many were allocated as were reserved, and never before.
 *
 * Context: any, NMIs included.
 *
 * Safety:
 * `reservation` is from heirloom_cache_reserve(), which returned 0, and not ended; its kernel's object is not closed; no
 * other call uses it at the same time.
 */
void *heirloom_reserved_alloc(struct heirloom_reservation *reservation);

/**
 * Ends a reservation: what of it was not allocated goes back to the cache. Nothing if it is null.
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_reserved_alloc(); the reservation is not used any more.
 */
void heirloom_unreserve(struct heirloom_reservation *reservation);

/**
 * Returns what an error is called in short; never null, and never to be freed.
 *
 * Context: any.
 */
const char *heirloom_strerror(int error);

/**
 * Returns Linux's errno for an error, positive: `ENOMEM` for HEIRLOOM_ERROR_OUT_OF_MEMORY, `EINVAL` for most
 * mistakes, `EUCLEAN` for a predecessor's table that is not sound. 0 for 0; `EINVAL` for what is no error.
 *
 * Context: any.
 */
int heirloom_errno(int error);

/**
 * Returns the number (`enum heirloom_error`) of what went wrong last: on this thread, or, in a kernel, on
 * any CPU. A call that succeeds does not change it. 0 if nothing went wrong yet.
 *
 * Context: any.
 */
int heirloom_last_error(void);

/**
 * Writes what went wrong last, in detail, as a text that ends with a zero byte: which object, where, what was
 * expected and what was found. See heirloom_last_error().
 *
 * @return the bytes of the whole text without the zero byte, as `snprintf` does: if it is not less than
 * `bytes`, the text was cut short. 0 if nothing went wrong yet.
 *
 * Context: any. Allocates nothing.
 *
 * Safety:
 * `text` has room for `bytes` bytes; it may be null if `bytes` is 0.
 */
size_t heirloom_error_text(char *text, size_t bytes);

/**
 * Tells what the predecessor preserved and nothing claimed, and frees it, or keeps it, as `disposition` says; frees all if
 * `disposition` is null. When every owner has had its turn, or never: what is not claimed costs its memory, and nothing else.
 * Can be repeated.
 *
 * @param finished how much there was; may be null.
 * @return 0, or an error: what was decided by then stands.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed; `disposition` is null, or can be called with `context`;
 * `finished` is null, or has room for one.
 */
int heirloom_finish(struct heirloom *h,
                    heirloom_fate disposition,
                    void *context,
                    struct heirloom_finished *finished);

/**
 * Allocates a folio: `1 << order` pages in a row, aligned to as many, with whatever they contain. The caller owns them
 * until heirloom_folio_free(). `flags` are HEIRLOOM_ZEROED, or 0.
 *
 * A folio is not looked up by its pointer, so calls for it are told its order, and take fewer instructions than those for
 * a buffer of as many bytes. It is no buffer: heirloom_free() refuses it, and heirloom_folio_free() a buffer.
 *
 * @return null if there is no free folio of this order, or for an order or flags that cannot be: heirloom_last_error().
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_alloc().
 */
void *heirloom_folio_alloc(struct heirloom *h,
                           unsigned int order,
                           uint32_t flags);

/**
 * Frees a folio; nothing if `ptr` is null. One that is preserved, restored ones too, is to be unpreserved first.
 *
 * @return 0, or an error, and the folio stays its owner's: HEIRLOOM_ERROR_FRAME_DOUBLE_FREE, _FRAME_INTERIOR,
 * _FRAME_WRONG_ORDER, _FRAME_WRONG_KIND (no folio), _FRAME_PRESERVED, _NOT_MEMORY, _MISALIGNED.
 *
 * Context: as for heirloom_folio_alloc().
 *
 * Safety:
 * The caller owns the folio at `ptr`, if there is one, and does not use it any more; no other call frees or preserves
 * it at the same time. `h` as for heirloom_alloc().
 */
int heirloom_folio_free(struct heirloom *h,
                        void *ptr,
                        unsigned int order);

/**
 * Makes a folio survive the jump from now on, whatever ends this kernel, and writes the handle that the successor
 * restores it by (unless `handle` is null).
 *
 * @return 0, or an error, and nothing is preserved: HEIRLOOM_ERROR_FRAME_ALREADY_PRESERVED, _OUT_OF_MEMORY, and as
 * heirloom_folio_free().
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_folio_free(); and `handle` is null, or has room for one.
 */
int heirloom_folio_preserve(struct heirloom *h,
                            void *ptr,
                            unsigned int order,
                            struct heirloom_handle *handle);

/**
 * Lets a folio go: it no longer survives, its handle names nothing any more, and it can be freed.
 *
 * @return 0, or an error: HEIRLOOM_ERROR_FRAME_NOT_PRESERVED, and as heirloom_folio_free().
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * As for heirloom_folio_free().
 */
int heirloom_folio_unpreserve(struct heirloom *h, void *ptr, unsigned int order);

/**
 * Claims a folio that the predecessor preserved; once. It is the caller's from now on, and survives the next jump too,
 * until heirloom_folio_unpreserve(). Its handle stays the same.
 *
 * @param order its order; may be null.
 * @return where it is. Null for what is no handle of a folio (HEIRLOOM_ERROR_BAD_HANDLE), and for what is not preserved
 * with this order, or claimed already (_FRAME_NOT_PRESERVED): nothing is changed then.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * As for heirloom_restore(); `order` is null, or has room for one.
 */
void *heirloom_folio_restore(struct heirloom *h,
                             const struct heirloom_handle *handle,
                             unsigned int *order);

/**
 * Writes what to tell the successor.
 *
 * @return 0, or HEIRLOOM_ERROR_NULL.
 *
 * Context: any.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed; `entry` has room for one.
 */
int heirloom_entry(struct heirloom *h, struct heirloom_entry *entry);

/**
 * Returns how many handovers led to this kernel: 0 for the first.
 *
 * Context: any.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed.
 */
uint64_t heirloom_generation(struct heirloom *h);

/**
 * Publishes bytes under a name, in place of what this kernel published under it before: the successor gets them from
 * heirloom_retrieve(). Usually a few handles, from which all else is found. At any instant the old bytes are there, or
 * the new.
 *
 * @return 0, or an error, and what was published before stays: HEIRLOOM_ERROR_BAD_NAME (a name has 1 to 31 letters,
 * digits and `,._+-`), _NAME_TAKEN (the predecessor's, not retrieved), _ROOT_FULL, _OUT_OF_MEMORY.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed; `name` ends with a zero byte; `data` has `bytes`
 * bytes, or these are 0. Neither is kept.
 */
int heirloom_publish(struct heirloom *h,
                     const char *name,
                     const void *data,
                     size_t bytes);

/**
 * Takes back what was published under a name, by this kernel, or retrieved by it.
 *
 * @return 0, or an error: HEIRLOOM_ERROR_NO_SUCH_NAME, _BAD_NAME.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed; `name` ends with a zero byte.
 */
int heirloom_unpublish(struct heirloom *h, const char *name);

/**
 * Claims what the predecessor published under a name, once, and copies it. It stays published, for the next successor,
 * until heirloom_publish() replaces it or heirloom_unpublish() takes it back.
 *
 * @param data where it is copied to.
 * @param bytes the room there; the bytes that were published, afterwards, also if the room is too small.
 * @return 0, or an error, and nothing is claimed: HEIRLOOM_ERROR_TOO_SMALL, _NO_SUCH_NAME, _NOT_INHERITED (retrieved
 * already, or this kernel's), _BAD_NAME.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed; `name` ends with a zero byte; `bytes` leads to a
 * number of bytes that `data` has room for.
 */
int heirloom_retrieve(struct heirloom *h,
                      const char *name,
                      void *data,
                      size_t *bytes);

/**
 * Adds checksums over all tables, so that the successor finds what changed on the way. Not needed: the handover is
 * valid without. The last call before a planned jump: what is preserved or published later makes the
 * seal untrue.
 *
 * @return 0, or an error: HEIRLOOM_ERROR_OUT_OF_MEMORY.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed.
 */
int heirloom_seal(struct heirloom *h);

/**
 * Breaks the seal: for normal work after a jump that failed.
 *
 * @return 0, or an error.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed.
 */
int heirloom_unseal(struct heirloom *h);

#if defined(HEIRLOOM_HOSTED)
/**
 * Replaces this process by its successor, as `execvp` does: `file` is looked for in `PATH` if it has no slash, and `argv`
 * ends with null. The environment is passed on, with one variable more, by which heirloom_inherited() finds the
 * memory. Returns only if that failed: then nothing changed, and `h` goes on.
 *
 * @return an error: HEIRLOOM_ERROR_SYSTEM, with the program and the reason in the text.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed; `file` and the texts of `argv` end with a zero byte.
 */
int heirloom_jump_exec(struct heirloom *h,
                       const char *file,
                       const char *const *argv);

/**
 * Returns the arena that the predecessor jumped with, to be closed by heirloom_arena_close(), and its entry. Once in
 * the life of the process, at the start of `main`, before anything else is opened.
 *
 * @param found whether there is a predecessor; may be null.
 * @param entry for heirloom_revive_arena(); may be null: the entry is in the arena too.
 * @return null if there is no predecessor, and if what it passed on is not sound (HEIRLOOM_ERROR_JUMP_..., _ARENA_...):
 * `found` tells which.
 *
 * Safety:
 * Nothing else in the process owns the descriptor that the predecessor passed on. `found` and `entry` are null, or
 * have room for one.
 */
struct heirloom_arena *heirloom_inherited(bool *found,
                                          struct heirloom_entry *entry);
#endif

#if !defined(HEIRLOOM_HOSTED)
/**
 * Returns the bytes of room that a kernel's object needs, for heirloom_boot() and heirloom_revive().
 *
 * Context: any.
 */
size_t heirloom_room_bytes(void);

/**
 * Returns the bytes of metadata that these ranges need on so many CPUs, about 1.2 a page: the room for it, or the
 * scratch in one area. 0 if the ranges are none.
 *
 * Context: any.
 *
 * Safety:
 * `ranges` has `count` ranges.
 */
size_t heirloom_metadata_bytes(const struct heirloom_range *ranges,
                               size_t count,
                               uint32_t cpus);

/**
 * Boots without a predecessor: all memory is free but for scratch and metadata.
 *
 * @param room where the kernel's object lies: heirloom_room_bytes() at least, in memory that no range has, and that
 * stays.
 * @param h the kernel's object.
 * @return 0, or an error: HEIRLOOM_ERROR_BAD_SPACE, _SCRATCH_TOO_SMALL, _MEMORY_TOO_SMALL, _RANGE_OVERLAPS, _OUTSIDE_MAP,
 * _MISALIGNED, ...
 *
 * Context: where one may sleep, once. Needs some 9 KiB of stack.
 *
 * Safety:
 * `config` and `h` lead to one each. What the config says of the direct map is true, and nothing else uses the memory of
 * the ranges (but for what is `busy`), the metadata and the room as long as the object is not closed. The config itself is
 * not kept.
 */
int heirloom_boot(void *room,
                  size_t room_bytes,
                  const struct heirloom_config *config,
                  struct heirloom **h);

/**
 * Takes over from a predecessor, and goes on with its handover: checks all of it first, and writes nothing but metadata
 * before. All that was preserved is there to be restored, whatever ended the predecessor, and at whatever instant this
 * kernel ends. See heirloom_boot().
 *
 * @return 0, or an error: what is wrong with the handover (HEIRLOOM_ERROR_BAD_TABLE, _BAD_TREE, _BAD_DIRECTORY,
 * _SEAL_BROKEN, _NOT_SEALED, ...), which stays as it was; or as heirloom_boot().
 *
 * Context: where one may sleep, once, before anything else uses the memory. Needs some 9 KiB of stack.
 *
 * Safety:
 * As for heirloom_boot(); `entry` leads to one; the predecessor does not run any more. `metadata` was no memory of the
 * predecessor's ranges but scratch.
 */
int heirloom_revive(void *room,
                    size_t room_bytes,
                    const struct heirloom_config *config,
                    const struct heirloom_entry *entry,
                    struct heirloom **h);

/**
 * Ends a kernel's object; nothing if it is null. What was preserved stays so, and everything else of the memory is
 * lost. Room, metadata and the memory of the ranges are the caller's again. A kernel that ends, or jumps, need not call it.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * `h` is from a call that boots or revives; neither it nor memory of it is used any more, on any CPU.
 */
void heirloom_close(struct heirloom *h);

/**
 * Allocates `bytes` bytes, as heirloom_alloc() does, that this CPU has at hand: for a kernel that pins as short as a few
 * instructions of its own, rather than by two calls.
 *
 * @param cpu this CPU's number, from heirloom_os_pin().
 * @return null, with nothing done, where it has none, and for what heirloom_alloc() returns null for: that one is to be
 * called then, once the CPU is unpinned.
 *
 * Context: any, interrupt handlers included (not NMIs). Between heirloom_os_pin() and heirloom_os_unpin().
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed. heirloom_os_pin() returned `cpu`, and heirloom_os_unpin()
 * was not called since.
 */
void *heirloom_pinned_alloc(struct heirloom *h,
                            int cpu,
                            size_t bytes);

/**
 * Tells which size class a buffer of `bytes` bytes is of, for heirloom_pinned_alloc_class(): where the size is a constant,
 * so may the class be.
 *
 * @return the class, or -1 where it is of none: it is whole pages, or nothing.
 *
 * Context: any.
 */
int heirloom_class(size_t bytes);

/**
 * Allocates a buffer of a size class, as heirloom_pinned_alloc() does for its largest size.
 *
 * @param class from heirloom_class(), of this build, not -1.
 * @return null, with nothing done, where this CPU has none: heirloom_alloc() is to be called then, once the CPU is unpinned.
 *
 * Context: as for heirloom_pinned_alloc().
 *
 * Safety:
 * As for heirloom_pinned_alloc(); `class` is one.
 */
void *heirloom_pinned_alloc_class(struct heirloom *h,
                                  int cpu,
                                  size_t class_);

/**
 * Frees a buffer, or an object of any cache, as heirloom_free() does, if this CPU has room for it at hand: see
 * heirloom_pinned_alloc().
 *
 * @param ptr not null.
 * @return 1, or 0, with nothing done, where it has none, and for what heirloom_free() does not free: that one is to be
 * called then, once the CPU is unpinned.
 *
 * Context: as for heirloom_pinned_alloc().
 *
 * Safety:
 * As for heirloom_free() and heirloom_pinned_alloc(); `ptr` is not null.
 */
int heirloom_pinned_free(struct heirloom *h,
                         int cpu,
                         void *ptr);

/**
 * Allocates an object, as heirloom_cache_alloc() does, that this CPU has at hand: see heirloom_pinned_alloc().
 *
 * @return null, with nothing done, where it has none: heirloom_cache_alloc() is to be called then, once the CPU is unpinned.
 *
 * Context: as for heirloom_pinned_alloc().
 *
 * Safety:
 * `c` is from a call that returned it, not null, and its kernel's object is not closed; `cpu` as for heirloom_pinned_alloc().
 */
void *heirloom_cache_pinned_alloc(struct heirloom_cache *c,
                                  int cpu);

/**
 * Frees an object, as heirloom_cache_free() does, if this CPU has room for it at hand: see heirloom_pinned_alloc().
 *
 * @return 1, or 0, with nothing done, where it has none, and for what heirloom_cache_free() does not free: that one is to be
 * called then, once the CPU is unpinned.
 *
 * Context: as for heirloom_pinned_alloc().
 *
 * Safety:
 * As for heirloom_cache_free() and heirloom_cache_pinned_alloc().
 */
int heirloom_cache_pinned_free(struct heirloom_cache *c,
                               int cpu,
                               void *ptr);

/**
 * Adds a range of memory, all of it free. At any time.
 *
 * @param space room for its metadata: heirloom_metadata_bytes() of it alone, for 0 CPUs, at least; in memory that no
 * range has, and that stays.
 * @return 0, or an error: HEIRLOOM_ERROR_RANGE_OVERLAPS, _BAD_SPACE, _MISALIGNED.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed; `range` leads to one, which its direct map covers, and which
 * nothing else uses, as nothing uses `space`, as long as the object is not closed.
 */
int heirloom_add_range(struct heirloom *h,
                       const struct heirloom_range *range,
                       void *space,
                       size_t space_bytes);

/**
 * Brings absent pages online: they are free memory. At any time.
 *
 * @return 0, or an error: HEIRLOOM_ERROR_NOT_ABSENT: a page is online; _NOT_MEMORY: one is in no range; _MISALIGNED. Nothing
 * is changed then.
 *
 * Context: any.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed; `range` leads to one, which its direct map covers, and which
 * nothing else uses until it is offline again, or the object is closed.
 */
int heirloom_online(struct heirloom *h,
                    const struct heirloom_range *range);

/**
 * Takes free pages offline: they are the caller's. At any time.
 *
 * What another CPU's cache has is not free: heirloom_shrink() on that CPU gives it back.
 *
 * @return 0, or an error: HEIRLOOM_ERROR_NOT_FREE: a page is in use, or absent; _NOT_MEMORY; _MISALIGNED. Nothing is changed
 * then.
 *
 * Context: any.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed; `range` leads to one.
 */
int heirloom_offline(struct heirloom *h,
                     const struct heirloom_range *range);

/**
 * Stays on this CPU until heirloom_os_unpin(), and returns its number, less than `cpus` of the heirloom_config.
 * Until then no other call on this CPU gets a number from this function: not a task, not an interrupt handler,
 * not one nested. Less than 0: not now, and heirloom_os_unpin() is not called for it.
 *
 * As a rule: preemption off, and a flag of this CPU's that says whether the number is given out. In every allocation
 * and free, so this is to be short. In between heirloom takes no lock and calls heirloom_os_node() alone. What
 * was written on a CPU in between is seen by the next call on it.
 */
extern int heirloom_os_pin(void);

/**
 * Ends what heirloom_os_pin() began, with the number that it returned.
 */
extern void heirloom_os_unpin(int cpu);

/**
 * Returns the NUMA node that is nearest to a CPU, which never changes: 0 where there is one alone.
 */
extern uint16_t heirloom_os_node(uint32_t cpu);

/**
 * Takes a lock, which is held for moments. Where interrupt handlers call heirloom, it keeps them out while it is held.
 */
extern void heirloom_os_lock(struct heirloom_lock *lock);

/**
 * Takes a lock if it is free. Returns whether it did: 0 or 1.
 */
extern int heirloom_os_try_lock(struct heirloom_lock *lock);

/**
 * Releases a lock, on the CPU that took it. Locks are released in the reverse order.
 */
extern void heirloom_os_unlock(struct heirloom_lock *lock);

/**
 * Takes a mutex, which is held for passes over whole tables: its holder and those that wait may sleep. Calls that
 * take one say so: they are for where one may sleep.
 */
extern void heirloom_os_mutex_lock(struct heirloom_mutex *mutex);

/**
 * Takes a mutex if it is free. Returns whether it did: 0 or 1.
 */
extern int heirloom_os_mutex_try_lock(struct heirloom_mutex *mutex);

/**
 * Releases a mutex, by the task that took it.
 */
extern void heirloom_os_mutex_unlock(struct heirloom_mutex *mutex);

/**
 * Returns whether the caller may wait for a heirloom_lock: 0 where it came in the middle of a call that holds
 * one and that cannot go on before it returns, in an interrupt that the lock does not keep out. Where the lock keeps
 * all out that call heirloom: 1.
 */
extern int heirloom_os_may_wait(void);

/**
 * Returns whether the caller can afford a pass over every cache, which gives memory back where there is no more: 0
 * in interrupt handlers, where the call is refused for want of memory instead.
 */
extern int heirloom_os_may_reclaim(void);

/**
 * Is called where `pages` pages in a row were wanted and there are none, in the context of the call that wants them,
 * with no heirloom_lock held. It may bring memory: heirloom_online(), heirloom_add_range(). Returns whether it did: then
 * the call is tried once more. 0: it fails for want of memory.
 */
extern int heirloom_os_grow(uint64_t pages);

/**
 * Is called with a text where heirloom found itself at fault; does not return. The text has `bytes` bytes
 * and a zero byte behind them.
 */
extern void heirloom_os_panic(const char *text, size_t bytes) __attribute__((__noreturn__));
#endif

/**
 * Writes how many pages are in which state; exact while nothing is allocated or freed.
 *
 * @return 0, or HEIRLOOM_ERROR_NULL.
 *
 * Context: any; costs a pass over the memory's bitmaps.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed; `stats` has room for one.
 */
int heirloom_stats(struct heirloom *h, struct heirloom_stats *stats);

/**
 * Empties what this CPU (or thread) keeps, and nothing else: free objects go to their slabs, free pages are every
 * CPU's. For a CPU that is about to go offline, or that another asks by an interrupt.
 *
 * @return whether it did: 1, or 0 where heirloom_os_pin() gives no number, or a lock might have to be waited for.
 *
 * Context: any, interrupt handlers included (not NMIs).
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed.
 */
int heirloom_flush(struct heirloom *h);

/**
 * Gives back what no cache needs: free objects that this CPU keeps go to their slabs, slabs without objects become free
 * memory, and this CPU's free pages are everyone's. Returns how many slabs.
 *
 * Context: where one may sleep.
 *
 * Safety:
 * `h` is from a call that boots or revives, and not closed.
 */
uint64_t heirloom_shrink(struct heirloom *h);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HEIRLOOM_H */
