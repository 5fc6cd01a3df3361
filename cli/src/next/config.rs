//! How a kernel is configured: `CONFIG_KEXEC_HANDOVER=y`.

use std::collections::BTreeMap;

/// The file `.config` of a kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    /// `7.3.4`, from the remark at its head.
    pub(super) release: Option<String>,
    symbols: BTreeMap<String, String>,
}

impl Config {
    /// Reads one; `None` if it is none.
    pub(super) fn read(text: &str) -> Option<Self> {
        let mut config = Self::default();
        for line in text.lines() {
            if let Some(words) = line.strip_suffix(" Kernel Configuration")
                && let Some((_, release)) = words.rsplit_once(' ')
            {
                config.release.get_or_insert_with(|| release.to_owned());
            }
            if let Some((symbol, value)) =
                line.strip_prefix("CONFIG_").and_then(|line| line.split_once('='))
            {
                config.symbols.insert(symbol.to_owned(), value.trim().to_owned());
            }
        }
        (!config.symbols.is_empty()).then_some(config)
    }

    /// Whether it says `y` or `m` of a symbol.
    pub(super) fn has(&self, symbol: &str) -> bool {
        self.symbols.get(symbol).is_some_and(|value| value == "y" || value == "m")
    }

    /// The size of pages, where it is said.
    pub(super) fn page_size(&self) -> Option<u64> {
        let shift: u32 = self.symbols.get("PAGE_SHIFT")?.parse().ok()?;
        1_u64.checked_shl(shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_there() {
        let text = "#\n# Linux/x86 7.3.4 Kernel Configuration\n#\nCONFIG_KEXEC_HANDOVER=y\n\
                    # CONFIG_LIVEUPDATE is not set\nCONFIG_LIVEUPDATE_TEST=m\nCONFIG_PAGE_SHIFT=14\n";
        let config = Config::read(text).unwrap();
        assert_eq!(config.release.as_deref(), Some("7.3.4"));
        assert!(config.has("KEXEC_HANDOVER") && config.has("LIVEUPDATE_TEST"));
        assert!(!config.has("LIVEUPDATE") && !config.has("PAGE_SHIFT"));
        assert_eq!(config.page_size(), Some(16384));
        assert!(Config::read("kernel Linux\n").is_none());
    }
}
