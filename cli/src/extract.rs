//! A preserved memfd's content, as a file.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, anyhow, bail};
use heirloom_linux::{Known, Luo, Memfd, Part, Session};
use heirloom_restore::Left;

use crate::arguments::Extract;
use crate::facts::each_page;
use crate::image::Image;
use crate::progress;
use crate::survey::Survey;

/// Writes the content of the memfd that `extract` names: its holes as holes, of exactly its size.
///
/// # Errors
/// There is no such session or file, it is no memfd, something on the way is not sound, or the
/// file cannot be written. It is removed then.
pub(crate) fn extract(survey: &Survey<'_>, extract: &Extract) -> Result<u64> {
    let left = survey.left();
    let memfd = find(survey, &left, extract)?;
    let path = &extract.output;
    let at = || path.display().to_string();
    let file = File::create(path).with_context(at)?;
    let written = write(&memfd, &left, &file).with_context(at);
    if written.is_err() {
        // What is there is not what was asked for. The error that counts is the first.
        let _ = std::fs::remove_file(path);
    }
    written?;
    Ok(memfd.size)
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
        let tokens: Vec<_> = tokens.map(|file| format!("{:#x}", file.token)).collect();
        anyhow!("no file {token:#x} in session {name}; there {}", listed("is", "are", &tokens))
    })?;
    let memfd = file.memfd(left)?;
    memfd.with_context(|| format!("file {token:#x} of session {name} is {}", file.compatible))
}

/// `are a, b`.
fn listed(one: &str, many: &str, names: &[String]) -> String {
    match names {
        [] => format!("{one} none"),
        [name] => format!("{one} {name}"),
        _ => format!("{many} {}", names.join(", ")),
    }
}

fn write(memfd: &Memfd, left: &Left<'_, Image>, file: &File) -> Result<()> {
    file.set_len(memfd.size).with_context(|| format!("cannot make it {} bytes", memfd.size))?;
    let bar = progress::bar("extracting", memfd.size);
    memfd.for_each_part(left, |part| {
        let Part::Data { offset, bytes, addr } = part else { return Ok(()) };
        let mut at = offset;
        let mut failed = Ok(());
        let there = each_page(left, addr, bytes, |page| {
            if failed.is_ok() {
                failed = file.write_all_at(page, at);
            }
            at += page.len() as u64;
        });
        failed.context("cannot write")?;
        there.with_context(|| format!("{bytes} bytes at {addr} are not in the image"))?;
        bar.inc(bytes);
        anyhow::Ok(())
    })?;
    bar.finish_and_clear();
    Ok(())
}
