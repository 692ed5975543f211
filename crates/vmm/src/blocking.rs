//! Work that blocks, away from the threads that must not.

/// Runs blocking work on a thread for it.
///
/// The work is not interrupted when the caller loses interest, so it should be short or harmless.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => resume(error).await,
    }
}

/// Runs work to its end even if the caller loses interest, so that no VM is left half way.
pub(crate) async fn finish<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome,
        Err(error) => resume(error).await,
    }
}

/// Carries a panic on to the caller. The only other failure is a runtime that shuts down, and then
/// nobody waits for an answer.
async fn resume<T>(error: tokio::task::JoinError) -> T {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => std::future::pending().await,
    }
}
