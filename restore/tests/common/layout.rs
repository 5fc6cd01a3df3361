//! A root page as another make lays one out: the tokens are the same, what stands where is not.

use std::string::String;
use std::vec::Vec;

/// The bytes of a root page with one struct block, behind the strings, whose order is another than
/// heirloom's; so is that of the properties. Each name has an address and maybe a size.
pub(crate) fn lay_out(map: u64, names: &[(String, u64, Option<u64>)]) -> Vec<u8> {
    const BEGIN: u32 = 1;
    const END_NODE: u32 = 2;
    const PROPERTY: u32 = 3;
    const END: u32 = 9;
    let strings = b"blob-size\0preserved-data\0compatible\0preserved-memory-map\0\0\0\0";
    let (size_at, data_at, compatible_at, map_at) = (0, 10, 25, 36);
    let mut block = Vec::new();
    let words = |to: &mut Vec<u8>, words: &[u32]| {
        for word in words {
            to.extend(word.to_be_bytes());
        }
    };
    let text = |to: &mut Vec<u8>, text: &str| {
        to.extend(text.as_bytes());
        to.extend(&[0; 4][text.len() % 4..]);
    };
    let value = |to: &mut Vec<u8>, name: u32, value: u64| {
        words(to, &[PROPERTY, 8, name]);
        to.extend(value.to_ne_bytes());
    };
    words(&mut block, &[BEGIN]);
    text(&mut block, "");
    value(&mut block, map_at, map);
    words(&mut block, &[PROPERTY, 7, compatible_at]);
    text(&mut block, "kho-v4");
    for (name, addr, size) in names {
        words(&mut block, &[BEGIN]);
        text(&mut block, name);
        if let Some(size) = size {
            value(&mut block, size_at, *size);
        }
        value(&mut block, data_at, *addr);
        words(&mut block, &[END_NODE]);
    }
    words(&mut block, &[END_NODE, END]);
    let block_at = 56 + strings.len();
    let total = block_at + block.len();
    let mut page = Vec::new();
    let header = [0xd00d_feed, total, block_at, 56, 40, 17, 16, 0, strings.len(), block.len()];
    words(&mut page, &header.map(|field| u32::try_from(field).unwrap()));
    page.resize(56, 0);
    page.extend(strings);
    page.extend(block);
    page
}
