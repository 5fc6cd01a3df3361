//! See `heirloom_verify::hostile::held_containers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heirloom_verify::hostile::held_containers(data));
