//! Work that blocks, away from the threads that must not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, getpriority_process, setpriority_process};
use tokio::sync::oneshot;

/// How far long computations step back behind those who wait for an answer (setpriority(2)).
const BEHIND: i32 = 10;

/// Runs blocking work on a thread for it.
///
/// The work is not interrupted when the caller loses interest, so it should be short or harmless.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => resume(error).await,
    }
}

/// Runs long computations on a thread of their own, which gets what processor time the rest of the
/// daemon leaves over. Linux counts niceness by thread, and one cannot be given back: so the thread
/// is not one of those that others use afterwards.
pub(crate) async fn run_behind<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("behind".to_owned())
        .spawn(move || {
            step_back(None);
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // Whoever is not there any more needs no answer.
            let _ = tell.send(done);
        });
    if let Err(error) = thread {
        // A system without room for a thread is a matter for the caller's own panic handling.
        panic!("cannot start a thread: {error}");
    }
    match told.await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        // The thread always answers.
        Err(_) => std::future::pending().await,
    }
}

/// Lets a process, or the calling thread, step back behind others.
pub(crate) fn step_back(pid: Option<u32>) {
    let pid = pid.and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
    let now = getpriority_process(pid).unwrap_or(0);
    if let Err(error) = setpriority_process(pid, now + BEHIND) {
        tracing::debug!(%error, "a computation keeps its priority");
    }
}

/// Whether somebody still waits for what [`finish_wanted`] does.
#[derive(Debug, Clone)]
pub(crate) struct Wanted(Arc<AtomicBool>);

impl Wanted {
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Runs work to its end as [`finish`] does; the work can see whether anybody still waits for it.
pub(crate) async fn finish_wanted<T, F>(work: impl FnOnce(Wanted) -> F) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    struct Leaving(Wanted);
    impl Drop for Leaving {
        fn drop(&mut self) {
            self.0.0.store(false, Ordering::Release);
        }
    }
    let waiting = Leaving(Wanted(Arc::new(AtomicBool::new(true))));
    finish(work(waiting.0.clone())).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_computation_steps_back_and_nobody_else_does() {
        let niceness = || getpriority_process(None).unwrap();
        let before = run(niceness).await;
        assert_eq!(run_behind(niceness).await, (before + BEHIND).min(19));
        assert_eq!(run(niceness).await, before);
    }

    #[tokio::test]
    #[should_panic(expected = "what it said")]
    async fn a_panic_of_a_computation_is_its_callers() {
        run_behind(|| panic!("what it said")).await
    }
}
