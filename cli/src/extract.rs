//! The content of a preserved memfd or of an object, as a file.

use anyhow::{Context, Result, anyhow, bail, ensure};
use heirloom_kho::linux::{Known, Luo, Memfd, Part, Session};
use heirloom_kho::{Left, PhysAddr, Run};

use crate::arguments::Extract;
use crate::facts::each_piece;
use crate::heap::{self, Found, Heap};
use crate::image::Image;
use crate::lent::Handovers;
use crate::progress;
use crate::sink::Sink;
use crate::survey::Survey;

/// Writes what `extract` names. What was at the output before is there still, where that fails.
///
/// # Errors
/// There is nothing of the name, something on the way is not sound, or the file cannot be written.
pub(crate) fn extract(handovers: &Handovers<'_>, extract: &Extract) -> Result<u64> {
    let survey = &handovers.outer;
    match (&extract.object, &extract.session, extract.token) {
        (Some(name), ..) => object(handovers.inner().unwrap_or(survey), extract, name),
        (None, Some(session), Some(token)) => memfd(survey, extract, session, token),
        _ => bail!("neither a session with a token nor an object was named"),
    }
}

/// Writes the bytes that a handle, an address or a key leads to.
fn object(survey: &Survey<'_>, extract: &Extract, name: &str) -> Result<u64> {
    let heap = Heap::new(survey);
    let (at, bytes) = match (heap::find(&heap, survey, name)?, &extract.entry) {
        (Found::Bytes { at, bytes, .. }, None) => (at, bytes),
        (Found::Bytes { what, .. }, Some(_)) => bail!("{what} has no entries: leave out --entry"),
        (Found::Container(container), Some(key)) => {
            let entry = container.entry_of(key, extract.element)?;
            (entry.at, entry.bytes)
        }
        (Found::Container(container), None) => bail!(
            "{name} is a {}: --entry says which entry; `heirloom list` shows them",
            container.kind.as_str()
        ),
    };
    let path = &extract.output;
    let mut sink = Sink::open(path, survey.image)?;
    sink.reserve(bytes).with_context(|| format!("cannot make it {bytes} bytes"))?;
    data(survey.image, at, bytes, &mut sink, |_| ()).with_context(|| path.display().to_string())?;
    sink.finish().context("cannot give it its name")?;
    Ok(bytes)
}

/// Writes the content of a session's memfd: its holes as holes, of exactly its size.
fn memfd(survey: &Survey<'_>, extract: &Extract, session: &str, token: u64) -> Result<u64> {
    let left = survey.left();
    let memfd = find(survey, &left, session, token)?;
    let size = memfd.size;
    ensure!(size <= LARGEST, "the memfd says that it has {size} bytes: no file can be so large");
    let (folios, pages) = (memfd.folios, survey.pages());
    ensure!(
        folios <= pages,
        "the memfd says that it has {folios} folios, and {pages} frames are preserved",
    );
    // Whatever is wrong is wrong before the first byte is written.
    memfd.for_each_part(&left, |part| whole(survey.image, part))?;
    let path = &extract.output;
    let sink = Sink::open(path, survey.image)?;
    write(&memfd, &left, survey.image, sink).with_context(|| path.display().to_string())?;
    Ok(memfd.size)
}

/// The largest file that there can be.
const LARGEST: u64 = i64::MAX as u64;

/// Whether all of a part is in the image.
fn whole(image: &Image, part: Part) -> Result<()> {
    let Part::Data { bytes, addr, .. } = part else { return Ok(()) };
    let there = Run::covering(addr, bytes).is_some_and(|run| image.contains(run));
    ensure!(there, "{bytes} bytes at {addr} are not in the image");
    Ok(())
}

fn find(survey: &Survey<'_>, left: &Left<'_, Image>, name: &str, token: u64) -> Result<Memfd> {
    let subtree = survey.subtrees().find(|subtree| subtree.name.as_str() == Luo::NAME);
    let subtree = subtree.context("the handover has no live update: no subtree LUO")?;
    let Some(Known::Luo(luo)) = Known::read(left, &subtree)? else { bail!("no subtree LUO") };
    let session = luo.session(left, name)?.ok_or_else(|| {
        let names = luo.sessions(left).into_iter().flatten().flatten();
        let names: Vec<_> = names.map(|session: Session| session.name.to_string()).collect();
        anyhow!("no session {name}; there {}", listed("is", "are", &names))
    })?;
    let file = session.file(left, token)?.ok_or_else(|| {
        let tokens = session.files(left).into_iter().flatten().flatten();
        let tokens: Vec<_> = tokens.map(|file| file.token.to_string()).collect();
        anyhow!("no file {token} in session {name}; there {}", listed("is", "are", &tokens))
    })?;
    let memfd = file.memfd(left)?;
    memfd.with_context(|| format!("file {token} of session {name} is {}", file.compatible))
}

/// Names that an error lists.
const NAMES: usize = 20;

/// `are a, b`.
fn listed(one: &str, many: &str, names: &[String]) -> String {
    match names {
        [] => format!("{one} none"),
        [name] => format!("{one} {name}"),
        _ => match names.split_at_checked(NAMES) {
            Some((first, rest @ [_, ..])) => {
                format!("{many} {} and {} more", first.join(", "), rest.len())
            }
            _ => format!("{many} {}", names.join(", ")),
        },
    }
}

fn write(memfd: &Memfd, left: &Left<'_, Image>, image: &Image, mut sink: Sink) -> Result<()> {
    let size = memfd.size;
    sink.reserve(size).with_context(|| format!("cannot make it {size} bytes"))?;
    let bar = progress::bar("extracting", size);
    memfd.for_each_part(left, |part| {
        match part {
            Part::Hole { bytes, .. } => {
                sink.hole(bytes).context("cannot write")?;
                bar.inc(bytes);
            }
            Part::Data { bytes, addr, .. } => {
                data(image, addr, bytes, &mut sink, |bytes| bar.inc(bytes))?;
            }
        }
        anyhow::Ok(())
    })?;
    bar.finish_and_clear();
    sink.finish().context("cannot give it its name")
}

/// Writes `bytes` bytes of memory, and tells `each` of how many were written.
fn data(
    image: &Image,
    addr: PhysAddr,
    bytes: u64,
    sink: &mut Sink,
    mut each: impl FnMut(u64),
) -> Result<()> {
    let mut failed = Ok(());
    let there = each_piece(image, addr, bytes, |piece| {
        if failed.is_ok() {
            failed = sink.data(piece);
            each(piece.len() as u64);
        }
    });
    failed.context("cannot write")?;
    there.with_context(|| format!("{bytes} bytes at {addr} are not in the image"))
}
