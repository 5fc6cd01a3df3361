//! What a user names: a published root, a handle in it, an address, a handle.

use anyhow::{Context, Result, bail, ensure};
use heirloom_kho::{PhysAddr, Subtree};

use super::{Container, Entry, Heap, Key, Kind, Named, in_root};
use crate::survey::Survey;

/// What a name stands for.
pub(crate) enum Found<'h, 'i> {
    /// Bytes: an object's, a buffer's, a root's own.
    Bytes {
        what: String,
        at: PhysAddr,
        bytes: u64,
    },
    Container(Container<'h, 'i>),
}

/// What `name` stands for: a root (`sessions`), one of the handles in it (`sessions[2]`), an address in an object or of a root
/// (`0x1520e8`), or a handle, as 32 hexadecimal digits.
///
/// # Errors
/// There is nothing of the name, or more than one thing; or it does not survive.
pub(crate) fn find<'h, 'i>(
    heap: &'h Heap<'i>,
    survey: &Survey<'_>,
    name: &str,
) -> Result<Found<'h, 'i>> {
    ensure!(
        survey.header.is_some(),
        "heirloom did not write this handover: what other kernels left has no objects with names"
    );
    // A root may have a name that looks like another of these.
    if let Some(subtree) = root(survey, name) {
        return of_root(heap, &subtree, name);
    }
    if let Some((of, index)) = indexed(name)
        && let Some(subtree) = root(survey, of)
    {
        let handles = in_root(heap, subtree.addr, subtree.size.unwrap_or_default());
        let named = handles.get(index).with_context(|| {
            format!("root {of} holds {} handles, the first is {of}[0]", handles.len())
        })?;
        return named_by(heap, named);
    }
    if let Some(handle) = handle(name) {
        let named = Named::of(heap, handle, 0);
        return named_by(
            heap,
            &named.context("these 32 digits are no handle: its check is wrong")?,
        );
    }
    if let Some(digits) = name.strip_prefix("0x")
        && let Ok(addr) = u64::from_str_radix(digits, 16)
    {
        let addr = PhysAddr::new(addr);
        let object = heap.object(addr);
        let object = object.with_context(|| format!("no object that survives is around {addr}"))?;
        if let Some(container) = Container::at(heap, object.addr) {
            return Ok(Found::Container(container));
        }
        let what = format!("object of cache {}", object.cache.name().as_str());
        return Ok(Found::Bytes { what, at: object.addr, bytes: object.bytes });
    }
    let names: Vec<_> = roots(survey).map(|subtree| subtree.name.as_str().to_owned()).collect();
    let there = match &names[..] {
        [] => "no root was published".to_owned(),
        names => format!("there are {}", names.join(", ")),
    };
    bail!("no root {name}; {there}")
}

/// The roots that were published.
fn roots<'s>(survey: &'s Survey<'_>) -> impl Iterator<Item = Subtree> + 's {
    survey.subtrees().filter(|subtree| subtree.name.as_str() != heirloom_kho::SUBTREE)
}

fn root(survey: &Survey<'_>, name: &str) -> Option<Subtree> {
    roots(survey).find(|subtree| subtree.name.as_str() == name)
}

/// `name[3]`.
fn indexed(text: &str) -> Option<(&str, usize)> {
    let (name, index) = text.strip_suffix(']')?.rsplit_once('[')?;
    Some((name, index.parse().ok()?))
}

/// Reads the 32 hexadecimal digits of a handle.
fn handle(text: &str) -> Option<[u8; 16]> {
    hex(text)?.try_into().ok()
}

fn of_root<'h, 'i>(heap: &'h Heap<'i>, subtree: &Subtree, name: &str) -> Result<Found<'h, 'i>> {
    let bytes = subtree.size.context("the root does not say how long it is")?;
    let handles = in_root(heap, subtree.addr, bytes);
    match &handles[..] {
        [only] if bytes == 16 => named_by(heap, only),
        [] => Ok(Found::Bytes { what: format!("root {name}"), at: subtree.addr, bytes }),
        several => {
            bail!(
                "root {name} holds {} handles: {name}[0] is the first, {name}[{}] the last",
                several.len(),
                several.len() - 1
            )
        }
    }
}

fn named_by<'h, 'i>(heap: &'h Heap<'i>, named: &Named) -> Result<Found<'h, 'i>> {
    let Named { what, addr, bytes, cache, is_there, .. } = named;
    let what = what.as_str();
    ensure!(is_there, "nothing is there that the handle names: a {what} at {addr}, {bytes} bytes");
    if let Some(container) = named.container(heap) {
        return Ok(Found::Container(container));
    }
    ensure!(
        !matches!(named.what, super::What::Area | super::What::Records),
        "the handle names a table at {addr}, {what}, and no bytes"
    );
    let what = cache.as_ref().map_or_else(|| what.to_owned(), |of| format!("object of cache {of}"));
    Ok(Found::Bytes { what, at: *addr, bytes: *bytes })
}

impl Container<'_, '_> {
    /// The entry of this key: of a map its bytes, as they are or in hexadecimal behind 0x; else a number.
    ///
    /// # Errors
    /// There is none, or what is before it is not sound.
    pub(crate) fn entry_of(&self, key: &str, element: Option<u64>) -> Result<Entry> {
        let kind = self.kind.as_str();
        let wanted = match self.kind {
            Kind::Map => vec![
                Some(Key::Bytes(key.as_bytes().to_vec())),
                key.strip_prefix("0x").and_then(hex).map(Key::Bytes),
            ],
            Kind::Log | Kind::Vec => {
                let number = key.parse().with_context(|| format!("a {kind} has numbers: {key}"))?;
                vec![Some(Key::Number(number))]
            }
        };
        let mut found = None;
        self.each(element, &mut |entry| {
            let is = wanted.iter().flatten().any(|key| *key == entry.key);
            if is {
                found = Some(entry);
            }
            Ok(!is)
        })?;
        found.with_context(|| format!("the {kind} has nothing of the key {key}"))
    }
}

/// Reads bytes of two hexadecimal digits each, and nothing else: `+f`, which Rust's numbers may be, are none.
fn hex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_two_a_byte() {
        assert_eq!(hex("00fFa7"), Some(vec![0, 0xff, 0xa7]));
        assert_eq!((hex("+f"), hex("abc"), hex("0x"), hex("é")), (None, None, None, None));
        assert_eq!(handle(&"1f".repeat(16)), Some([0x1f; 16]));
        assert_eq!((handle(&"1f".repeat(15)), handle(&"+f".repeat(16))), (None, None));
    }
}
