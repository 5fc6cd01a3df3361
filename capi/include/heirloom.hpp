/*
 * heirloom for C++: what heirloom.h has, in the shapes of the standard library. C++17, headers alone.
 *
 *     hl::memory       the object that a boot or a revival returns, with its arena; closed when the value goes
 *     hl::resource     a std::pmr::memory_resource over it
 *     hl::allocator    an allocator over it, for containers of the standard library
 *     hl::cache        a cache of objects of one type
 *     hl::relative_ptr a pointer that stays good in the successor, wherever the arena is mapped there
 *     hl::error        what these throw
 *
 * What survives. Objects of a preserving cache, and buffers allocated with HEIRLOOM_PRESERVED, as in C. A container of the
 * standard library does not, even if all of its memory does: it holds plain pointers, and the successor maps the arena
 * elsewhere. Structures that are to survive hold an hl::relative_ptr, or handles.
 *
 * Threads, contexts, ownership and "Safety" are as heirloom.h says of the calls that are named here.
 */
#ifndef HEIRLOOM_HPP
#define HEIRLOOM_HPP

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <memory>
#include <memory_resource>
#include <new>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#include "heirloom.h"

namespace hl {

/** Returns the category of heirloom's error numbers (enum heirloom_error). */
inline const std::error_category &category() noexcept
{
	struct heirlooms final : std::error_category {
		const char *name() const noexcept override { return "heirloom"; }
		std::string message(int number) const override { return heirloom_strerror(number); }
	};
	static const heirlooms one;
	return one;
}

/** An error of heirloom's: `code()` has the number, `what()` says which object, where, and why. */
class error : public std::system_error {
public:
	explicit error(int number, const std::string &text)
		: std::system_error(number, category(), text) {}
};

/** Throws what the last call of this thread said: std::bad_alloc where that is that memory is full. */
[[noreturn]] inline void raise()
{
	const int number = heirloom_last_error();
	if (heirloom_errno(number) == ENOMEM)
		throw std::bad_alloc();
	char text[256] = "";
	heirloom_error_text(text, sizeof(text));
	throw error(number, text);
}

/** Throws unless a call that returns 0 for success did. */
inline void check(int returned)
{
	if (returned != 0)
		raise();
}

/** A function that C calls, and what it threw: nothing is thrown through C. */
template <class F> struct called {
	F &function;
	std::exception_ptr thrown;

	/** Returns what the function returns for an argument; `otherwise` if it throws, now or before. */
	template <class T> int call(const T &argument, int otherwise) noexcept
	{
		if (thrown)
			return otherwise;
		try {
			return static_cast<int>(function(argument));
		} catch (...) {
			thrown = std::current_exception();
			return otherwise;
		}
	}

	/** Throws what the function threw, if it did. */
	void rethrow() const
	{
		if (thrown)
			std::rethrow_exception(thrown);
	}
};

/** Returns what a call returned that returns null for failure; throws then. */
template <class T> T *check(T *returned)
{
	if (returned == nullptr)
		raise();
	return returned;
}

/**
 * An arena, and the object over it. Everything allocated from it goes with the value; what was preserved
 * stays in the arena's descriptor, and is the successor's.
 */
class memory {
public:
	/** Boots over a new arena with these ranges. */
	static memory create(const char *name, const heirloom_range *ranges, std::size_t count, const char *producer)
	{
		arena_ptr arena(check(heirloom_arena_create(name, ranges, count)));
		kernel_ptr kernel(check(heirloom_boot_arena(arena.get(), producer)));
		return memory(std::move(arena), std::move(kernel));
	}

	/**
	 * Takes an arena over that a predecessor filled: heirloom_arena_open() or heirloom_inherited() returned it. It stays
	 * the caller's where this throws, as what is in it does: to be revived in another way, or closed.
	 */
	static memory revive(heirloom_arena *opened, const char *producer, const struct heirloom_entry *entry = nullptr,
			     std::uint32_t seal = HEIRLOOM_SEAL_CHECKED)
	{
		kernel_ptr kernel(check(heirloom_revive_arena(check(opened), entry, producer, seal)));
		return memory(arena_ptr(opened), std::move(kernel));
	}

	memory(memory &&) noexcept = default;

	/* What it had is closed in this order: an arena is not closed under its object. */
	memory &operator=(memory &&other) noexcept
	{
		kernel_ = std::move(other.kernel_);
		arena_ = std::move(other.arena_);
		return *this;
	}

	/** Returns the object, for the calls of heirloom.h. */
	struct heirloom *get() const noexcept { return kernel_.get(); }

	/** Returns the arena, for the calls of heirloom.h. */
	heirloom_arena *arena() const noexcept { return arena_.get(); }

	/** Returns how many predecessors there were. */
	std::uint64_t generation() const noexcept { return heirloom_generation(get()); }

	/**
	 * Ends the takeover, as heirloom_finish(): `keeps(const struct heirloom_unclaimed &)` says of each thing that was not claimed
	 * whether it stays. If it throws, what it was not asked about stays, and what was thrown is thrown here.
	 */
	template <class F> struct heirloom_finished finish(F keeps)
	{
		called<F> calling{keeps, nullptr};
		const heirloom_fate ask = [](const struct heirloom_unclaimed *unclaimed, void *context) -> int {
			return static_cast<called<F> *>(context)->call(*unclaimed, 1);
		};
		struct heirloom_finished finished{};
		const int returned = heirloom_finish(get(), ask, &calling, &finished);
		calling.rethrow();
		check(returned);
		return finished;
	}

private:
	struct close {
		void operator()(heirloom_arena *arena) const noexcept { heirloom_arena_close(arena); }
		void operator()(struct heirloom *kernel) const noexcept { heirloom_close(kernel); }
	};
	using arena_ptr = std::unique_ptr<heirloom_arena, close>;
	using kernel_ptr = std::unique_ptr<struct heirloom, close>;

	memory(arena_ptr arena, kernel_ptr kernel) : arena_(std::move(arena)), kernel_(std::move(kernel)) {}

	/* In this order: the arena is closed last. */
	arena_ptr arena_;
	kernel_ptr kernel_;
};

/** Memory of heirloom's for what takes a std::pmr::memory_resource. Two are equal that are over one object, with the same flags. */
class resource final : public std::pmr::memory_resource {
public:
	/** `flags` as for heirloom_alloc_with(). The object outlives the resource and all that it allocates. */
	explicit resource(struct heirloom *over, std::uint32_t flags = 0) noexcept : over_(over), flags_(flags) {}

	struct heirloom *over() const noexcept { return over_; }

private:
	void *do_allocate(std::size_t bytes, std::size_t align) override
	{
		return check(heirloom_alloc_with(over_, bytes == 0 ? 1 : bytes, align, flags_));
	}

	void do_deallocate(void *ptr, std::size_t, std::size_t) override
	{
		/* That it is refused says that it was no allocation of this resource's: undefined, as the standard has it. */
		(void)heirloom_free(over_, ptr);
	}

	bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override
	{
		const auto *same = dynamic_cast<const resource *>(&other);
		return same != nullptr && same->over_ == over_ && same->flags_ == flags_;
	}

	struct heirloom *over_;
	std::uint32_t flags_;
};

/** Memory of heirloom's for containers that are given an allocator: smaller and faster than over hl::resource. */
template <class T> class allocator {
public:
	using value_type = T;
	using propagate_on_container_copy_assignment = std::true_type;
	using propagate_on_container_move_assignment = std::true_type;
	using propagate_on_container_swap = std::true_type;

	/** The object outlives all that is allocated. */
	explicit allocator(struct heirloom *over) noexcept : over_(over) {}
	template <class U> allocator(const allocator<U> &other) noexcept : over_(other.over()) {}

	T *allocate(std::size_t n)
	{
		if (n > std::numeric_limits<std::size_t>::max() / sizeof(T))
			throw std::bad_array_new_length();
		const std::size_t bytes = n == 0 ? 1 : n * sizeof(T);
		return static_cast<T *>(check(heirloom_alloc_with(over_, bytes, alignof(T), 0)));
	}

	void deallocate(T *ptr, std::size_t) noexcept { (void)heirloom_free(over_, ptr); }

	struct heirloom *over() const noexcept { return over_; }

	template <class U> bool operator==(const allocator<U> &other) const noexcept { return over_ == other.over(); }
	template <class U> bool operator!=(const allocator<U> &other) const noexcept { return over_ != other.over(); }

private:
	struct heirloom *over_;
};

/**
 * A pointer that is how far its target is from itself: good in the successor, as the arena's memory lies there as it
 * lies here. It and its target are both in one arena. Copying one makes another that leads to the same place.
 *
 * Unlike a handle it is not checked: it leads to memory that is in use because the program keeps it so. Bytes that are
 * zero are none that is null, but one that leads to itself, as in a ring of one.
 */
template <class T> class relative_ptr {
public:
	using element_type = T;

	relative_ptr() noexcept = default;
	relative_ptr(std::nullptr_t) noexcept {}
	relative_ptr(T *to) noexcept { set(to); }
	relative_ptr(const relative_ptr &other) noexcept { set(other.get()); }
	template <class U, class = std::enable_if_t<std::is_convertible_v<U *, T *>>>
	relative_ptr(const relative_ptr<U> &other) noexcept { set(other.get()); }

	relative_ptr &operator=(const relative_ptr &other) noexcept
	{
		set(other.get());
		return *this;
	}

	T *get() const noexcept
	{
		return away_ == none ? nullptr : reinterpret_cast<T *>(self() + static_cast<std::uintptr_t>(away_));
	}

	T *operator->() const noexcept { return get(); }
	template <class U = T, class = std::enable_if_t<!std::is_void_v<U>>> U &operator*() const noexcept { return *get(); }
	explicit operator bool() const noexcept { return away_ != none; }

	/* Of what they lead to. Pointers and null are compared with, as one is made of them. */
	friend bool operator==(const relative_ptr &a, const relative_ptr &b) noexcept { return a.get() == b.get(); }
	friend bool operator!=(const relative_ptr &a, const relative_ptr &b) noexcept { return a.get() != b.get(); }

private:
	std::uintptr_t self() const noexcept { return reinterpret_cast<std::uintptr_t>(this); }

	void set(T *to) noexcept
	{
		/* Unsigned, so that any two addresses have a distance. */
		away_ = to == nullptr ? none : static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(to) - self());
	}

	/* How far nothing is that a pointer can lead to: its own second byte. */
	static constexpr std::int64_t none = 1;

	/* Eight bytes, aligned: one store replaces it. */
	std::int64_t away_ = none;
};

/**
 * A preserving cache of one type: its objects survive from birth until they are freed, at no cost for each.
 *
 * The type is plain: bytes that another build can read. `fingerprint` is changed with its layout, so that another
 * build's objects are refused and not misread.
 */
template <class T> class cache {
	static_assert(std::is_trivially_destructible_v<T> && std::is_standard_layout_v<T>,
		      "what survives is bytes: no destructor, no virtual function");

public:
	/** Creates the cache, or takes it into use with all that a predecessor left in it, as it is. */
	cache(const memory &over, const char *name, std::uint64_t fingerprint) : over_(over.get())
	{
		heirloom_cache_spec spec{};
		spec.name = name;
		spec.size = sizeof(T);
		spec.align = alignof(T);
		spec.fingerprint = fingerprint;
		spec.flags = HEIRLOOM_CACHE_PRESERVING;
		cache_ = check(heirloom_cache_resume(over_, &spec));
	}

	/** Makes an object from these arguments. It is the caller's until it is freed, in this life or a later one. */
	template <class... Args> T *make(Args &&...args)
	{
		struct giving_back {
			heirloom_cache *cache;
			void operator()(void *object) const noexcept { (void)heirloom_cache_free(cache, object); }
		};
		std::unique_ptr<void, giving_back> room(check(heirloom_cache_alloc(cache_)), giving_back{cache_});
		T *made = ::new (room.get()) T{std::forward<Args>(args)...};
		(void)room.release();
		return made;
	}

	/**
	 * Calls `ends(const struct heirloom_handle &)` for every object of the cache that survives, as
	 * heirloom_cache_each_preserved(), until it returns true. If it throws, the walk ends, and what was thrown is thrown here.
	 */
	template <class F> void each_preserved(F ends) const { walk(heirloom_cache_each_preserved, ends); }

	/** Calls `ends` for every object that a predecessor left and that is not restored, as heirloom_cache_each_unclaimed(). */
	template <class F> void each_unclaimed(F ends) const { walk(heirloom_cache_each_unclaimed, ends); }

	/** Frees an object of the cache. */
	void free(T *object) { check(heirloom_cache_free(cache_, object)); }

	/** Returns the sixteen bytes by which any successor finds the object. */
	struct heirloom_handle handle(const T *object) const
	{
		struct heirloom_handle written{};
		check(heirloom_handle(over_, object, &written));
		return written;
	}

	/** Returns the object of a handle; null if none that is in use has it. */
	T *find(const struct heirloom_handle &handle) const noexcept
	{
		return static_cast<T *>(heirloom_find(over_, &handle));
	}

	/** Returns the cache, for the calls of heirloom.h. */
	heirloom_cache *get() const noexcept { return cache_; }

private:
	template <class F, class Each> void walk(Each each, F &ends) const
	{
		called<F> calling{ends, nullptr};
		const heirloom_each ask = [](const struct heirloom_handle *handle, void *context) -> int {
			return static_cast<called<F> *>(context)->call(*handle, 1);
		};
		const int returned = each(cache_, ask, &calling);
		calling.rethrow();
		check(returned);
	}

	struct heirloom *over_;
	heirloom_cache *cache_;
};

} // namespace hl

#endif // HEIRLOOM_HPP
