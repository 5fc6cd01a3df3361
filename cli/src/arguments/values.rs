//! Values of arguments: numbers, addresses and names, as a person writes them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use heirloom::service::is_name;
use heirloom_kho::{PageSize, PhysAddr};

/// `resp=127.0.0.1:6379`.
pub(super) fn listen(text: &str) -> Result<(String, String), String> {
    let (name, address) = text.split_once('=').ok_or("a name, `=`, and an address with a port")?;
    if !is_name(name) {
        return Err(
            "a name has 1 to 255 printable ASCII characters, none of them a colon".to_owned()
        );
    }
    Ok((name.to_owned(), address.to_owned()))
}

/// A number of times: not none.
pub(super) fn times(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("not less than once".to_owned()),
        parsed => parsed.map_err(|error: std::num::ParseIntError| error.to_string()),
    }
}

/// `4096`, `0x1000`, `16M`; and `50f000`, which is no decimal number.
pub(super) fn number(text: &str) -> Result<u64, String> {
    const UNITS: [(char, u32); 4] = [('k', 10), ('m', 20), ('g', 30), ('t', 40)];
    let unit = UNITS.iter().find(|(unit, _)| text.ends_with([*unit, unit.to_ascii_uppercase()]));
    let (digits, shift) = match unit {
        Some((_, shift)) => (text.get(..text.len() - 1).unwrap_or_default(), *shift),
        None => (text, 0),
    };
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let lettered = || digits.bytes().any(|byte| byte.is_ascii_alphabetic());
    let is_hex = || digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parsed = match hex.or_else(|| (lettered() && is_hex()).then_some(digits)) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    let said = "a number is decimal, or hexadecimal with 0x before it or a letter in it; k, M, G or T behind it \
                stands for 1024 of the one before";
    let number = parsed.map_err(|error| format!("{error}; {said}"))?;
    let shifted = number.checked_mul(1 << shift);
    shifted.ok_or_else(|| "more than 64 bits can hold".to_owned())
}

/// A file for a picture. Standard output, where text goes, has a name of its own.
pub(super) fn picture(path: PathBuf) -> Result<PathBuf, String> {
    const OTHERS: [&str; 9] = ["bmp", "eps", "gif", "jpeg", "jpg", "pdf", "png", "ps", "webp"];
    if path == Path::new("-") {
        return Err("standard output is /dev/stdout (a file of that name is ./-)".to_owned());
    }
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    match ending {
        Some(ending) if OTHERS.contains(&&*ending) => Err(format!(
            "the picture is SVG or HTML, not {ending}: give it a name that ends in .svg or .html"
        )),
        _ => Ok(path),
    }
}

/// `64k`, `65536`, `0x10000`.
pub(super) fn page_size(text: &str) -> Result<PageSize, String> {
    let possible = format!("a power of two from {} to {}", PageSize::BUILD, PageSize::MAX);
    let bytes = number(text).map_err(|error| format!("{possible}: {error}"))?;
    PageSize::new(bytes).ok_or(possible)
}

pub(super) fn address(text: &str) -> Result<PhysAddr, String> {
    number(text).map(PhysAddr::new)
}

/// `memory@0x100000000`; the file's name can have an `@` in it.
pub(super) fn raw(text: &OsStr) -> Result<(PathBuf, u64), String> {
    let bytes = text.as_bytes();
    let parts = bytes.iter().rposition(|byte| *byte == b'@').map(|at| bytes.split_at(at));
    let (file, addr) = parts.ok_or("a file, an @, and an address")?;
    let addr = str::from_utf8(addr).map_err(|error| error.to_string())?;
    Ok((OsStr::from_bytes(file).into(), number(addr.trim_start_matches('@'))?))
}

/// `0x1000+32`, as an entry has it.
pub(super) fn list(text: &str) -> Result<(PhysAddr, u64), String> {
    let (addr, bytes) = text.split_once('+').ok_or("an address, a plus, and a length")?;
    Ok((address(addr)?, number(bytes)?))
}
