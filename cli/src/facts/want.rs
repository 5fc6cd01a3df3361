//! What is worth the time: which lists are made, what is hashed, and how much of it.

use std::cell::Cell;

use indicatif::ProgressBar;

use crate::image::Image;
use crate::progress;
use crate::survey::Survey;
use crate::text::bytes;

/// What is worth the time.
#[derive(Debug)]
pub(crate) struct Want<'i> {
    /// Where contents are read.
    pub(super) image: &'i Image,
    /// Every folio of every memfd.
    pub(crate) folios: bool,
    /// The hash of every memfd.
    pub(crate) hash: bool,
    /// How far the hashes are.
    pub(crate) bar: ProgressBar,
    left: Cell<Room>,
}

/// What can be listed and hashed yet.
///
/// Sound files share no folio, so they have no more of them than there are frames. A broken
/// handover can name one file a million times; and a size is what a writer says.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Folios to list.
    folios: u64,
    /// Pages to hash.
    pages: u64,
    /// Bytes of holes to hash.
    hollow: u64,
}

/// Bytes of holes that are worth hashing, in all files together.
const HOLES: u64 = 1 << 36;

impl<'i> Want<'i> {
    pub(crate) fn new(survey: &Survey<'i>, folios: bool, hash: bool) -> Self {
        let (pages, page) = (survey.pages(), survey.image.page_size().bytes() as u64);
        let bytes = if hash { pages.saturating_mul(page) } else { 0 };
        let bar = progress::bar("hashing files", bytes);
        let room = Room { folios: pages, pages, hollow: HOLES };
        Self { image: survey.image, folios, hash, bar, left: Cell::new(room) }
    }

    /// Whether so many folios can still be listed; they are then.
    pub(super) fn list(&self, folios: u64) -> bool {
        let room = self.left.get();
        let rest = room.folios.checked_sub(folios);
        self.left.set(Room { folios: rest.unwrap_or(room.folios), ..room });
        rest.is_some()
    }

    /// Whether so many bytes, and holes of so many, can still be hashed; they are then. Else why
    /// not.
    pub(super) fn read(&self, data: u64, hollow: u64) -> Result<(), String> {
        let room = self.left.get();
        let Some(pages) =
            room.pages.checked_sub(data.div_ceil(self.image.page_size().bytes() as u64))
        else {
            return Err("the files before it are as large as all that is preserved".to_owned());
        };
        let Some(rest) = room.hollow.checked_sub(hollow) else {
            let (holes, all) = (bytes(hollow), bytes(HOLES));
            return Err(format!("{holes} of holes are not hashed, as they would be over {all}"));
        };
        self.left.set(Room { pages, hollow: rest, ..room });
        progress::grow(&self.bar, hollow);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use heirloom_kho::PAGE_SIZE;

    use super::*;

    #[test]
    fn a_file_that_is_named_again_and_again_is_not_read_again_and_again() {
        let file = std::env::temp_dir().join(format!("heirloom-want-{}", std::process::id()));
        std::fs::write(&file, [0; PAGE_SIZE]).unwrap();
        let reading = crate::image::Reading { base: Some(0), ..Default::default() };
        let image = Image::open(&file, &reading).unwrap();
        std::fs::remove_file(&file).unwrap();
        let want = Want {
            image: &image,
            folios: true,
            hash: true,
            bar: ProgressBar::hidden(),
            left: Cell::new(Room { folios: 10, pages: 10, hollow: 3 * HOLES / 2 }),
        };
        let page = PAGE_SIZE as u64;
        assert!(want.list(8) && want.read(8 * page, HOLES).is_ok());
        assert!(!want.list(3) && want.read(2 * page + 1, 0).is_err());
        // All holes together have a limit.
        assert!(want.read(0, HOLES).unwrap_err().starts_with("64 GiB of holes"));
        assert!(want.list(2) && want.read(2 * page, HOLES / 2).is_ok() && want.list(0));
        assert!(!want.list(1) && want.read(1, 0).is_err() && want.read(0, 1).is_err());
    }
}
