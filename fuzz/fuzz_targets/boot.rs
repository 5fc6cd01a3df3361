//! See `heirloom_verify::hostile::boot`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heirloom_verify::hostile::boot(data));
