//! How a command fails: one line that says what went wrong and what to do about it.

use std::fmt::{self, Display};

/// The end of a command that did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    line: String,
    refused: bool,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            line: message.into(),
            refused: false,
        }
    }

    /// The control plane understood and refused: asking again as before is of no use.
    pub(crate) fn refusal(message: impl Into<String>) -> Self {
        Self {
            refused: true,
            ..Self::new(message)
        }
    }

    pub(crate) fn is_refusal(&self) -> bool {
        self.refused
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// Turns an error into a [`Failure`] by saying what was being done.
pub(crate) trait Doing<T> {
    /// `read(path).doing(|| format!("cannot read {path}"))`: the error and its sources follow.
    fn doing<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Failure>;
}

impl<T, E: std::error::Error> Doing<T> for Result<T, E> {
    fn doing<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Failure> {
        self.map_err(|error| {
            let mut line = format!("{}: {error}", what());
            let mut last = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                let text = cause.to_string();
                // Wrappers often repeat what they wrap.
                if !last.contains(&text) {
                    line.push_str(": ");
                    line.push_str(&text);
                }
                last = text;
                source = cause.source();
            }
            Failure::new(line)
        })
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the door")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_failure_says_what_was_done_and_every_cause_once() {
        let broken: Result<(), _> = Err(Outer(std::io::Error::other("the key is bent")));
        let failure = broken.doing(|| "entering").expect_err("a failure");
        assert_eq!(
            failure.to_string(),
            "entering: cannot open the door: the key is bent"
        );
    }
}
