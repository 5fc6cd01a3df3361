//! What the tests of this crate share: fixed seeds.

use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

/// `cases` cases, the same ones in every run.
pub(crate) fn proptest_config(cases: u32) -> Config {
    Config {
        cases: if cfg!(miri) { 4 } else { cases },
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(0x6865_6972_6c6f_6f6d),
        ..Config::default()
    }
}
