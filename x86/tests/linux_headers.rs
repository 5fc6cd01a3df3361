//! Offsets and numbers, as a C compiler reads them from Linux's own headers (`linux-libc-dev`).

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::process::Command;

use heirloom_x86::boot_params::{
    E820_EXT, E820Entry, KEXEC_KHO, KhoData, KhoNode, SetupDataHead, SetupHeader, ZeroPage,
};
use heirloom_x86::start_info::{MAGIC, MapEntry, ModuleEntry, StartInfoHead};

/// A field here, and what it is called there.
macro_rules! fields {
    ($($ours:ident, $theirs:literal: $($field:ident = $name:literal),+;)+) => {
        &[$(
            (concat!("sizeof(", $theirs, ")"), size_of::<$ours>() as u64),
            $((concat!("offsetof(", $theirs, ", ", $name, ")"), offset_of!($ours, $field) as u64),)+
        )+]
    };
}

/// Fields that every version of the headers has.
const BOOT: &[(&str, u64)] = fields! {
    ZeroPage, "struct boot_params":
        screen_info = "screen_info", acpi_rsdp_addr = "acpi_rsdp_addr",
        ext_ramdisk_image = "ext_ramdisk_image", ext_ramdisk_size = "ext_ramdisk_size",
        ext_cmd_line_ptr = "ext_cmd_line_ptr", e820_entries = "e820_entries", hdr = "hdr",
        e820_table = "e820_table";
    SetupHeader, "struct setup_header":
        setup_sects = "setup_sects", syssize = "syssize", boot_flag = "boot_flag", jump = "jump",
        header = "header", version = "version", type_of_loader = "type_of_loader",
        loadflags = "loadflags", code32_start = "code32_start", ramdisk_image = "ramdisk_image",
        ramdisk_size = "ramdisk_size", heap_end_ptr = "heap_end_ptr",
        cmd_line_ptr = "cmd_line_ptr", initrd_addr_max = "initrd_addr_max",
        kernel_alignment = "kernel_alignment", relocatable_kernel = "relocatable_kernel",
        min_alignment = "min_alignment", xloadflags = "xloadflags", cmdline_size = "cmdline_size",
        setup_data = "setup_data", pref_address = "pref_address", init_size = "init_size",
        handover_offset = "handover_offset", kernel_info_offset = "kernel_info_offset";
    SetupDataHead, "struct setup_data": next = "next", kind = "type", len = "len";
    E820Entry, "struct boot_e820_entry": addr = "addr", size = "size", kind = "type";
};

/// Those of headers that not every machine has: what a program defines where they are.
const KHO: &[(&str, u64)] = fields! {
    KhoData, "struct kho_data":
        fdt_addr = "fdt_addr", fdt_size = "fdt_size",
        scratch_addr = "scratch_addr", scratch_size = "scratch_size";
};
const PVH: &[(&str, u64)] = fields! {
    StartInfoHead, "struct hvm_start_info":
        magic = "magic", version = "version", flags = "flags", nr_modules = "nr_modules",
        modlist_paddr = "modlist_paddr", cmdline_paddr = "cmdline_paddr",
        rsdp_paddr = "rsdp_paddr", memmap_paddr = "memmap_paddr",
        memmap_entries = "memmap_entries";
    ModuleEntry, "struct hvm_modlist_entry": paddr = "paddr", size = "size";
    MapEntry, "struct hvm_memmap_table_entry": addr = "addr", size = "size", kind = "type";
};

/// The program's text: it prints each expression's value.
fn program() -> String {
    let print = |list: &[(&str, u64)]| {
        let lines = list.iter().map(|(what, _)| {
            format!(
                "printf(\"%s=%llu\\n\", \"{what}\", \
             (unsigned long long)({what}));\n"
            )
        });
        lines.collect::<String>()
    };
    let numbers = [
        ("SETUP_E820_EXT", 0),
        ("XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G | XLF_5LEVEL", 0),
        ("LOADED_HIGH", 0),
        ("E820_MAX_ENTRIES_ZEROPAGE", 0),
    ];
    format!(
        "#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n#include <asm/bootparam.h>\n\
         #if __has_include(<asm/setup_data.h>)\n#include <asm/setup_data.h>\n#endif\n\
         #if __has_include(<xen/arch-x86/hvm/start_info.h>)\n\
         #include <xen/arch-x86/hvm/start_info.h>\n#endif\n\
         int main(void) {{\n{}{}\
         #ifdef SETUP_KEXEC_KHO\n{}{}#endif\n\
         #ifdef XEN_HVM_START_MAGIC_VALUE\n{}{}#endif\n\
         return 0; }}\n",
        print(BOOT),
        print(&numbers),
        print(KHO),
        print(&[("SETUP_KEXEC_KHO", 0)]),
        print(PVH),
        print(&[("XEN_HVM_START_MAGIC_VALUE", 0)]),
    )
}

/// What the headers say; `None`, with the reason printed, where they or a C compiler cannot be had.
fn said() -> Option<BTreeMap<String, u64>> {
    let place = std::env::temp_dir().join(format!("heirloom-x86-headers-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let (source, binary) = (place.join("offsets.c"), place.join("offsets"));
    let probe = "#if !__has_include(<asm/bootparam.h>)\n#error none\n#endif\nint main(void) { return 0; }\n";
    let compile = |text: &str| {
        std::fs::write(&source, text).unwrap();
        Command::new("cc").arg(&source).arg("-o").arg(&binary).output()
    };
    let there = compile(probe).is_ok_and(|output| output.status.success());
    let printed = there.then(|| {
        let output = compile(&program()).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(Command::new(&binary).output().unwrap().stdout).unwrap()
    });
    std::fs::remove_dir_all(&place).unwrap();
    if printed.is_none() {
        println!("SKIPPED: no C compiler for x86-64, or no <asm/bootparam.h>");
    }
    let values = printed?;
    let values = values.lines().filter_map(|line| line.split_once('='));
    Some(values.map(|(what, value)| (what.to_owned(), value.parse().unwrap())).collect())
}

#[test]
fn layouts_are_those_of_linux() {
    let Some(said) = said() else { return };
    let mut known = 0;
    for (what, ours) in [BOOT, KHO, PVH].concat() {
        if let Some(theirs) = said.get(what) {
            assert_eq!(ours, *theirs, "{what}");
            known += 1;
        }
    }
    assert!(known >= BOOT.len(), "{known} of {}", BOOT.len());
    let number = |what: &str| said.get(what).copied();
    assert_eq!(number("SETUP_E820_EXT"), Some(E820_EXT.into()));
    assert_eq!(number("XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G | XLF_5LEVEL"), Some(0b10_0011));
    assert_eq!(number("LOADED_HIGH"), Some(1));
    assert_eq!(number("E820_MAX_ENTRIES_ZEROPAGE"), Some(128));
    for (what, ours) in [("SETUP_KEXEC_KHO", KEXEC_KHO), ("XEN_HVM_START_MAGIC_VALUE", MAGIC)] {
        assert!(number(what).is_none_or(|theirs| theirs == ours.into()), "{what}");
    }
    println!("{known} sizes and offsets, as in Linux's headers");
}

/// Facts of Linux 7.3 and of Xen's interface, for machines whose headers are older or not there.
#[test]
fn layouts_are_those_that_were_read() {
    let offsets = |list: &[(&'static str, u64)]| list.iter().map(|(_, at)| *at).collect::<Vec<_>>();
    assert_eq!(offsets(KHO), [32, 0, 8, 16, 24]);
    assert_eq!(offsets(PVH), [56, 0, 4, 8, 12, 16, 24, 32, 40, 48, 32, 0, 8, 24, 0, 8, 16]);
    assert_eq!((KEXEC_KHO, MAGIC, offset_of!(KhoNode, data)), (10, 0x336e_c578, 16));
}
