//! Which machine the image of a memory is of, and which one a kernel is for.

/// A machine, as `uname -m` says it, without what tells byte orders and generations apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Machine {
    name: String,
    order: Option<ByteOrder>,
}

/// In which order a machine has the bytes of a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    /// The byte order of the machine that runs this, and so of each image that it can read.
    pub(crate) const HERE: Self =
        if cfg!(target_endian = "big") { Self::Big } else { Self::Little };

    /// What a person calls it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Little => "little-endian",
            Self::Big => "big-endian",
        }
    }
}

impl Machine {
    /// Returns the machine that an ELF file with this `e_machine` is for.
    pub(crate) fn of_elf(machine: u16, is_64: bool, order: ByteOrder) -> Self {
        let name = match (machine, is_64) {
            (62, _) => "x86_64",
            (3, _) => "i386",
            (183, _) => "aarch64",
            (40, _) => "arm",
            (22, true) => "s390x",
            (22, false) => "s390",
            (21, _) => "ppc64",
            (20, _) => "ppc",
            (243, true) => "riscv64",
            (243, false) => "riscv32",
            (258, true) => "loongarch64",
            (8, true) => "mips64",
            (8, false) => "mips",
            _ => return Self { name: format!("ELF machine {machine}"), order: Some(order) },
        };
        Self { name: name.to_owned(), order: Some(order) }
    }

    /// Returns the machine that `uname -m` calls `text`; `None` if that is no name.
    pub(crate) fn named(text: &str) -> Option<Self> {
        let word = text.trim();
        if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let (name, order) = match word {
            "i486" | "i586" | "i686" | "x86" => ("i386", None),
            "amd64" => ("x86_64", None),
            "arm64" => ("aarch64", None),
            "aarch64_be" => ("aarch64", Some(ByteOrder::Big)),
            "ppc64le" => ("ppc64", Some(ByteOrder::Little)),
            _ if word.starts_with("armv") => ("arm", None),
            _ => (word, None),
        };
        let only = match name {
            "x86_64" | "i386" | "riscv64" | "riscv32" | "loongarch64" => Some(ByteOrder::Little),
            "s390x" | "s390" => Some(ByteOrder::Big),
            _ => None,
        };
        Some(Self { name: name.to_owned(), order: order.or(only) })
    }

    /// Returns this machine with `order` as its byte order.
    pub(crate) fn ordered(self, order: ByteOrder) -> Self {
        Self { order: Some(order), ..self }
    }

    /// Returns its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns its byte order, if that is known.
    pub(crate) const fn order(&self) -> Option<ByteOrder> {
        self.order
    }

    /// Returns the size of its pages in bytes, if it has one size only.
    pub(crate) fn page_size(&self) -> Option<u64> {
        let only = ["x86_64", "i386", "s390x", "riscv64", "riscv32"];
        only.contains(&self.name()).then_some(4096)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_one_however_it_is_said() {
        let (little, big) = (ByteOrder::Little, ByteOrder::Big);
        for (elf, is_64, order, said) in [
            (62, true, little, "x86_64"),
            (3, false, little, "i686"),
            (183, true, big, "aarch64_be"),
            (21, true, little, "ppc64le"),
            (22, true, big, "s390x"),
            (243, true, little, "riscv64"),
        ] {
            assert_eq!(Machine::of_elf(elf, is_64, order), Machine::named(said).unwrap());
        }
        let arm = Machine::named("arm64").unwrap();
        assert_eq!((arm.name(), arm.order(), arm.page_size()), ("aarch64", None, None));
        assert_eq!(arm.ordered(little), Machine::of_elf(183, true, little));
        assert_eq!(Machine::named("s390x\n").unwrap().page_size(), Some(4096));
        assert_eq!(Machine::of_elf(9, true, big).name(), "ELF machine 9");
        assert_eq!((Machine::named(""), Machine::named("a\0b")), (None, None));
    }
}
