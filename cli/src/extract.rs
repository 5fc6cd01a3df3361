//! A preserved memfd's content, as a file.

use anyhow::{Context, Result, anyhow, bail, ensure};
use heirloom_kho::linux::{Known, Luo, Memfd, Part, Session};
use heirloom_kho::{Left, Run};

use crate::arguments::Extract;
use crate::facts::each_piece;
use crate::image::Image;
use crate::progress;
use crate::sink::Sink;
use crate::survey::Survey;

/// Writes the content of the memfd that `extract` names: its holes as holes, of exactly its size.
///
/// # Errors
/// There is no such session or file, it is no memfd, something on the way is not sound, or the
/// file cannot be written. What was there before is there still.
pub(crate) fn extract(survey: &Survey<'_>, extract: &Extract) -> Result<u64> {
    let left = survey.left();
    let memfd = find(survey, &left, extract)?;
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

fn find(survey: &Survey<'_>, left: &Left<'_, Image>, extract: &Extract) -> Result<Memfd> {
    let Extract { session: name, token, .. } = extract;
    let subtree = survey.subtrees().find(|subtree| subtree.name.as_str() == Luo::NAME);
    let subtree = subtree.context("the handover has no live update: no subtree LUO")?;
    let Some(Known::Luo(luo)) = Known::read(left, &subtree)? else { bail!("no subtree LUO") };
    let session = luo.session(left, name)?.ok_or_else(|| {
        let names = luo.sessions(left).into_iter().flatten().flatten();
        let names: Vec<_> = names.map(|session: Session| session.name.to_string()).collect();
        anyhow!("no session {name}; there {}", listed("is", "are", &names))
    })?;
    let file = session.file(left, *token)?.ok_or_else(|| {
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
                let mut failed = Ok(());
                let there = each_piece(image, addr, bytes, |page| {
                    if failed.is_ok() {
                        failed = sink.data(page);
                        bar.inc(page.len() as u64);
                    }
                });
                failed.context("cannot write")?;
                there.with_context(|| format!("{bytes} bytes at {addr} are not in the image"))?;
            }
        }
        anyhow::Ok(())
    })?;
    bar.finish_and_clear();
    sink.finish().context("cannot give it its name")
}
