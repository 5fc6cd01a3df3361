//! What is in a container, or in a cache: a line each.

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::arguments::List;
use crate::heap::{Container, Entry, Found, Heap, find};
use crate::lent::Handovers;
use crate::output::Lines;
use crate::text::{bytes, plural, shown};

/// Prints what `list` names.
///
/// # Errors
/// There is nothing of the name; what is there is not sound.
pub(crate) fn list(handovers: &Handovers<'_>, list: &List) -> Result<()> {
    let survey = handovers.inner().unwrap_or(&handovers.outer);
    let heap = Heap::new(survey);
    let mut lines = Lines::new();
    let listed = match (&list.what, &list.cache) {
        (Some(what), _) => match find(&heap, survey, what)? {
            Found::Bytes { what, at, bytes: length } => {
                let text = format!("{}: {} at {at}", shown(&what), bytes(length));
                let value = json!({ "what": what, "addr": at.to_string(), "bytes": length });
                put(&mut lines, list, &text, &value).map(|_| ())
            }
            Found::Container(container) => entries(&mut lines, list, &container),
        },
        (None, Some(cache)) => objects(&mut lines, list, &heap, cache),
        (None, None) => bail!("what is to be listed? a root, a handle, an address, or --cache"),
    };
    lines.finish()?;
    listed
}

/// Prints a line, or the value.
fn put(lines: &mut Lines, list: &List, text: &str, value: &serde_json::Value) -> Result<bool> {
    if list.json { lines.line(&value.to_string()) } else { lines.line(text) }
}

fn entries(lines: &mut Lines, list: &List, container: &Container<'_, '_>) -> Result<()> {
    if list.element.is_none()
        && let (crate::heap::Kind::Vec, Some(length)) = (container.kind, container.length())
    {
        bail!(
            "a vector of {}, which does not say how large they are: --element does",
            plural(length, "element", "elements")
        );
    }
    container.each(list.element, &mut |Entry { key, at, bytes: length }| {
        let key = key.to_string();
        let text = format!("{at:<14} {:>9}  {}", bytes(length), shown(&key));
        let value = json!({ "key": key, "addr": at.to_string(), "bytes": length });
        put(lines, list, &text, &value)
    })
}

fn objects(lines: &mut Lines, list: &List, heap: &Heap<'_>, cache: &str) -> Result<()> {
    let number = heap.caches().iter().position(|record| record.name().as_str() == cache);
    let number = number.with_context(|| {
        let names = heap.caches().iter().map(|record| record.name().as_str().to_owned());
        match &names.collect::<Vec<_>>()[..] {
            [] => format!("no cache {cache}: the handover has none"),
            names => format!("no cache {cache}; there are {}", names.join(", ")),
        }
    })?;
    for object in heap.objects(number) {
        let at = object.addr;
        let text = format!("{at:<14} {:>9}", bytes(object.bytes));
        let value = json!({ "addr": at.to_string(), "bytes": object.bytes, "tag": object.tag });
        if !put(lines, list, &text, &value)? {
            break;
        }
    }
    Ok(())
}
