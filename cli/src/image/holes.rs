//! What of a file is more than a hole.

use std::fs::File;

use rustix::fs::SeekFrom;

/// The first stretch of a file, from `at` on and before `end`, that is more than a hole. Where the
/// file system cannot tell, everything is.
pub(super) fn extent(file: &File, at: u64, end: u64) -> Option<(u64, u64)> {
    if at >= end {
        return None;
    }
    let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => data.max(at),
        Err(rustix::io::Errno::NXIO) => return None,
        Err(_) => at,
    };
    if data >= end {
        return None;
    }
    let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(end);
    Some((data, hole.clamp(data + 1, end)))
}
