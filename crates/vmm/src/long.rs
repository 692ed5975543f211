//! Long runs of tests (`./test --long`).

/// How many cases of a property are tried where each takes a while: so many, and twenty times as
/// many in a long run, as with all other properties.
pub(crate) fn cases(usual: u32) -> u32 {
    match std::env::var("HOSTLER_LONG").as_deref() {
        Err(_) | Ok("" | "0") => usual,
        Ok(_) => usual * 20,
    }
}
