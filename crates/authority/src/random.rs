//! Random numbers from the same library that makes the keys.

/// Random bytes from the operating system's generator, by way of aws-lc.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // aws-lc aborts the process rather than return weak randomness; the call reports no failure.
    aws_lc_rs::rand::fill(&mut bytes).expect("aws-lc's generator does not fail");
    bytes
}

/// A number in -1.0..=1.0, to spread renewals with.
pub(crate) fn jitter() -> f64 {
    fraction() * 2.0 - 1.0
}

/// A number in 0.0..=1.0.
pub(crate) fn fraction() -> f64 {
    f64::from(u32::from_be_bytes(bytes())) / f64::from(u32::MAX)
}
