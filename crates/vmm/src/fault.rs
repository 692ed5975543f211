//! Fault points: places at which a test may make the process die, as a power cut would.
//!
//! In a debug build, when the environment variable `HOSTLER_FAULT_POINT` names a point, the process
//! aborts on reaching it: no destructor runs, nothing is flushed. A release build has none of this.

/// Aborts the process here when a test asked for it.
#[cfg(debug_assertions)]
pub(crate) fn point(name: &str) {
    if std::env::var_os("HOSTLER_FAULT_POINT").is_some_and(|wanted| wanted == name) {
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
