//! The real files that the example keeps: found below a directory, up to a limit.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// A file to be kept.
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// Regular files below `dir`, in the order of their paths, as many as fit `limit` bytes in all.
/// What cannot be read is left out; links are not followed.
pub(crate) fn find(dir: &Path, limit: u64) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut left = limit;
    let mut dirs = vec![dir.to_owned()];
    fs::read_dir(dir)?;
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (Ok(kind), path) = (entry.file_type(), entry.path()) else { continue };
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file() {
                let bytes = entry.metadata().map_or(0, |m| m.len());
                if bytes <= left && fs::File::open(&path).is_ok() {
                    left -= bytes;
                    found.push(Found { path, bytes });
                }
            }
        }
    }
    Ok(found)
}
