//! What is in a container, or in a cache: a line each.

use anyhow::{Context, Result, bail};
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::List;
use crate::facts::Hex;
use crate::heap::{Container, Entry, Found, Heap, find};
use crate::lent::Handovers;
use crate::output::Lines;
use crate::text::{bytes, shown};

/// What `list --json` prints on a line.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Line {
    /// An entry of a container.
    Entry { key: String, addr: Hex, bytes: u64 },
    /// What is no container.
    Bytes { what: String, addr: Hex, bytes: u64 },
    /// An object of a cache.
    Object { addr: Hex, bytes: u64, tag: u8 },
}

/// Prints what `list` names. Of an arena that is `used`, all of a container or nothing: it can be asked for again.
///
/// # Errors
/// There is nothing of the name; what is there is not sound.
pub(crate) fn list(handovers: &Handovers<'_>, list: &List, used: bool) -> Result<()> {
    let survey = handovers.inner().unwrap_or(&handovers.outer);
    let heap = Heap::new(survey);
    let mut lines = Lines::new();
    let listed = match (&list.what, &list.cache) {
        (Some(what), _) => match find(&heap, survey, what)? {
            Found::Bytes { what, at, bytes: length } => {
                let text = format!("{}: {} at {at}", shown(&what), bytes(length));
                let value = Line::Bytes { what, addr: at.into(), bytes: length };
                put(list, &text, &value).and_then(|line| lines.line(&line)).map(|_| ())
            }
            Found::Container(container) if used => held(&mut lines, list, &container),
            Found::Container(container) => entries(list, &container, &mut |line| lines.line(line)),
        },
        (None, Some(cache)) => objects(&mut lines, list, &heap, cache),
        (None, None) => bail!("what is to be listed? a root, a handle, an address, or --cache"),
    };
    lines.finish()?;
    listed
}

/// A line: the text, or the value.
fn put(list: &List, text: &str, value: &Line) -> Result<String> {
    Ok(if list.json { serde_json::to_string(value)? } else { text.to_owned() })
}

/// Prints the entries once all are known.
fn held(lines: &mut Lines, list: &List, container: &Container<'_, '_>) -> Result<()> {
    let mut all = Vec::new();
    entries(list, container, &mut |line| {
        all.push(line.to_owned());
        Ok(true)
    })?;
    for line in all {
        if !lines.line(&line)? {
            break;
        }
    }
    Ok(())
}

fn entries(
    list: &List,
    container: &Container<'_, '_>,
    print: &mut dyn FnMut(&str) -> Result<bool>,
) -> Result<()> {
    container.each(list.element, &mut |Entry { key, at, bytes: length }| {
        let key = key.to_string();
        let text = format!("{at:<14} {:>9}  {}", bytes(length), shown(&key));
        let value = Line::Entry { key, addr: at.into(), bytes: length };
        print(&put(list, &text, &value)?)
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
        let value = Line::Object { addr: at.into(), bytes: object.bytes, tag: object.tag };
        if !lines.line(&put(list, &text, &value)?)? {
            break;
        }
    }
    Ok(())
}
