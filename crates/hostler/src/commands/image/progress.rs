//! How far an import is: one line that changes on a terminal, a line for each step elsewhere.

use std::io::{self, IsTerminal as _, Write as _};

use serde_json::Value;

use crate::client::Api;
use crate::failure::Failure;
use crate::output::{harmless, progress};

/// Waits for an import and shows how far it is. That this cannot be seen is no failure: the
/// import says by itself how it ends.
pub(super) async fn shown(
    api: &Api,
    host: &str,
    name: &str,
    import: impl Future<Output = Result<Value, Failure>>,
) -> Result<Value, Failure> {
    let watch = async {
        let path = ["v1", "hosts", host, "images", "import-progress"];
        let Ok(mut events) = api.get(&path).query("name", name).stream().await else {
            return;
        };
        let mut line = Line::default();
        while let Ok(Some(event)) = events.next().await {
            line.show(&event);
        }
    };
    tokio::pin!(import, watch);
    let mut watching = true;
    let imported = loop {
        tokio::select! {
            // Whoever watches first misses nothing.
            biased;
            () = &mut watch, if watching => watching = false,
            imported = &mut import => break imported,
        }
    };
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    imported
}

#[derive(Default)]
struct Line {
    /// What was said last, where each thing is said once.
    said: String,
}

impl Line {
    fn show(&mut self, event: &Value) {
        if event["state"] != "running" || event["steps"] == 0 {
            return;
        }
        let step = format!(
            "[{}/{}] {}",
            event["step"],
            event["steps"],
            harmless(event["message"].as_str().unwrap_or_default())
        );
        if io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\r\x1b[K{step}{}", share(event));
        } else if step != self.said {
            progress(&step);
            self.said = step;
        }
    }
}

/// How much of a step is done, where it is about bytes.
fn share(event: &Value) -> String {
    let (Some(done), Some(total @ 1..)) =
        (event["done_bytes"].as_u64(), event["total_bytes"].as_u64())
    else {
        return String::new();
    };
    let mib = |bytes: u64| bytes >> 20;
    let percent = done.saturating_mul(100) / total;
    format!(" {percent} % ({} of {} MiB)", mib(done), mib(total))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_share_is_told_where_there_is_one() {
        let event = json!({ "done_bytes": 3 << 20, "total_bytes": 4 << 20 });
        assert_eq!(share(&event), " 75 % (3 of 4 MiB)");
        assert_eq!(share(&json!({ "done_bytes": 1, "total_bytes": 0 })), "");
        assert_eq!(share(&json!({})), "");
    }
}
