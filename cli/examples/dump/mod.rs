//! Memory as a file.

/// What is left out if it is zero.
const PIECE: usize = 256;

/// An ELF core of memory from `start` on: what is zero is declared only.
pub(crate) fn elf(start: u64, bytes: &[u8]) -> Vec<u8> {
    // Where in memory, what is there.
    let mut pieces: Vec<(usize, Vec<u8>)> = vec![(0, Vec::new())];
    for (i, piece) in bytes.chunks(PIECE).enumerate() {
        if piece.iter().all(|byte| *byte == 0) {
            continue;
        }
        match pieces.last_mut().filter(|(at, last)| at + last.len() == i * PIECE) {
            Some((_, last)) => last.extend(piece),
            None => pieces.push((i * PIECE, piece.to_vec())),
        }
    }
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([4_u16, 62].map(u16::to_le_bytes).concat());
    file.extend(1_u32.to_le_bytes());
    file.extend([0, 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([64, 56, pieces.len() as u16, 0, 0, 0].map(u16::to_le_bytes).concat());
    let mut place = 64 + 56 * pieces.len();
    for (i, (at, piece)) in pieces.iter().enumerate() {
        let end = pieces.get(i + 1).map_or(bytes.len(), |(next, _)| *next);
        file.extend([1_u32, 4].map(u32::to_le_bytes).concat());
        let numbers = [place, 0, start as usize + at, piece.len(), end - at, 0];
        file.extend(numbers.map(|number| (number as u64).to_le_bytes()).concat());
        place += piece.len();
    }
    for (_, piece) in pieces {
        file.extend(piece);
    }
    file
}
