// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * heirloom's own calls, for subsystems that want more than linux/heirloom.h has: see heirloom.h. The instance is
 * hl_instance; what it needs beyond the memory that it has, these calls do not get.
 */
#include <linux/export.h>

#include "heirloom.h"

EXPORT_SYMBOL_GPL(heirloom_add_range);
EXPORT_SYMBOL_GPL(heirloom_alloc);
EXPORT_SYMBOL_GPL(heirloom_alloc_with);
EXPORT_SYMBOL_GPL(heirloom_cache_adopt);
EXPORT_SYMBOL_GPL(heirloom_cache_alloc);
EXPORT_SYMBOL_GPL(heirloom_cache_create);
EXPORT_SYMBOL_GPL(heirloom_cache_each_preserved);
EXPORT_SYMBOL_GPL(heirloom_cache_each_unclaimed);
EXPORT_SYMBOL_GPL(heirloom_cache_free);
EXPORT_SYMBOL_GPL(heirloom_cache_reserve);
EXPORT_SYMBOL_GPL(heirloom_cache_resume);
EXPORT_SYMBOL_GPL(heirloom_cache_shrink);
EXPORT_SYMBOL_GPL(heirloom_cache_zalloc);
EXPORT_SYMBOL_GPL(heirloom_class);
EXPORT_SYMBOL_GPL(heirloom_entry);
EXPORT_SYMBOL_GPL(heirloom_errno);
EXPORT_SYMBOL_GPL(heirloom_error_text);
EXPORT_SYMBOL_GPL(heirloom_find);
EXPORT_SYMBOL_GPL(heirloom_finish);
EXPORT_SYMBOL_GPL(heirloom_folio_alloc);
EXPORT_SYMBOL_GPL(heirloom_folio_free);
EXPORT_SYMBOL_GPL(heirloom_folio_preserve);
EXPORT_SYMBOL_GPL(heirloom_folio_restore);
EXPORT_SYMBOL_GPL(heirloom_folio_unpreserve);
EXPORT_SYMBOL_GPL(heirloom_free);
EXPORT_SYMBOL_GPL(heirloom_generation);
EXPORT_SYMBOL_GPL(heirloom_handle);
EXPORT_SYMBOL_GPL(heirloom_last_error);
EXPORT_SYMBOL_GPL(heirloom_offline);
EXPORT_SYMBOL_GPL(heirloom_online);
EXPORT_SYMBOL_GPL(heirloom_preserve);
EXPORT_SYMBOL_GPL(heirloom_publish);
EXPORT_SYMBOL_GPL(heirloom_realloc);
EXPORT_SYMBOL_GPL(heirloom_reserved_alloc);
EXPORT_SYMBOL_GPL(heirloom_restore);
EXPORT_SYMBOL_GPL(heirloom_resume);
EXPORT_SYMBOL_GPL(heirloom_retrieve);
EXPORT_SYMBOL_GPL(heirloom_seal);
EXPORT_SYMBOL_GPL(heirloom_shrink);
EXPORT_SYMBOL_GPL(heirloom_stats);
EXPORT_SYMBOL_GPL(heirloom_strerror);
EXPORT_SYMBOL_GPL(heirloom_unpreserve);
EXPORT_SYMBOL_GPL(heirloom_unpublish);
EXPORT_SYMBOL_GPL(heirloom_unreserve);
EXPORT_SYMBOL_GPL(heirloom_unseal);
EXPORT_SYMBOL_GPL(heirloom_usable_size);
EXPORT_SYMBOL_GPL(heirloom_zalloc);
