//! How a kernel is configured: `CONFIG_KEXEC_HANDOVER=y`.

use std::collections::BTreeMap;

use crate::machine::{ByteOrder, Machine};

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

    /// What it is for, where it is said.
    pub(super) fn machine(&self) -> Option<Machine> {
        const OF: [(&str, &str); 7] = [
            ("X86_64", "x86_64"),
            ("X86_32", "i386"),
            ("ARM64", "aarch64"),
            ("S390", "s390x"),
            ("PPC64", "ppc64"),
            ("LOONGARCH", "loongarch64"),
            ("ARCH_RV64I", "riscv64"),
        ];
        let (_, name) = OF.iter().find(|(symbol, _)| self.has(symbol))?;
        let machine = Machine::named(name)?;
        Some(match () {
            () if self.has("CPU_BIG_ENDIAN") => machine.ordered(ByteOrder::Big),
            () if self.has("CPU_LITTLE_ENDIAN") || *name == "aarch64" => {
                machine.ordered(ByteOrder::Little)
            }
            () => machine,
        })
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
        assert_eq!(config.machine(), None);
        let of = |text: &str| Config::read(text).unwrap().machine().unwrap();
        assert_eq!(of("CONFIG_X86_64=y\n"), Machine::named("x86_64").unwrap());
        let big = of("CONFIG_ARM64=y\nCONFIG_CPU_BIG_ENDIAN=y\n");
        assert_eq!(big, Machine::named("aarch64_be").unwrap());
        assert_eq!(of("CONFIG_ARM64=y\n").order(), Some(ByteOrder::Little));
        assert!(Config::read("kernel Linux\n").is_none());
    }
}
