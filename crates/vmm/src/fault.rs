//! Fault points: places at which a test may make the process die, as a power cut would.
//!
//! In a debug build, when the environment variable `HOSTLER_FAULT_POINT` names a point, the process
//! aborts on reaching it: no destructor runs, nothing is flushed. `NAME:3` means when it is reached
//! for the third time, for points that are passed again and again. A release build has none of
//! this.

/// Aborts the process here when a test asked for it.
#[cfg(debug_assertions)]
pub(crate) fn point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static REACHED: AtomicU32 = AtomicU32::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("HOSTLER_FAULT_POINT").ok()?;
        Some(match text.split_once(':') {
            Some((name, times)) => (name.to_owned(), times.parse().ok()?),
            None => (text, 1),
        })
    });
    if let Some((wanted, times)) = wanted
        && wanted == name
        && REACHED.fetch_add(1, Ordering::Relaxed) + 1 == *times
    {
        tracing::error!(
            point = name,
            "aborting at the fault point, as HOSTLER_FAULT_POINT asks"
        );
        std::process::abort();
    }
}

/// Aborts the process here when a test asked for it; never in a release build.
#[cfg(not(debug_assertions))]
pub(crate) fn point(_name: &str) {}
