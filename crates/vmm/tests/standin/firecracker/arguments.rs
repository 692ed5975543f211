//! The command line (Firecracker's `src/firecracker/src/main.rs`).

/// What the command line asks for.
pub(crate) enum Wanted {
    Version,
    SnapshotVersion,
    Run(Arguments),
}

pub(crate) struct Arguments {
    pub(crate) id: String,
    pub(crate) api_sock: String,
    pub(crate) log_path: Option<String>,
}

/// Options with a value that change nothing here: levels of the log, times that the jailer measured.
const OTHERS: [&str; 4] = [
    "--level",
    "--start-time-us",
    "--start-time-cpu-us",
    "--parent-cpu-time-us",
];

pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut id = None;
    let mut api_sock = None;
    let mut log_path = None;
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "--version" => return Ok(Wanted::Version),
            "--snapshot-version" => return Ok(Wanted::SnapshotVersion),
            _ => {}
        }
        let others = &mut None;
        let place = match name.as_str() {
            "--id" => &mut id,
            "--api-sock" => &mut api_sock,
            "--log-path" => &mut log_path,
            other if OTHERS.contains(&other) => others,
            other => {
                return Err(format!(
                    "Found argument '{other}' which wasn't expected, or isn't valid in this context."
                ));
            }
        };
        let value = arguments.next().filter(|value| !value.starts_with("--"));
        let value = value.ok_or_else(|| {
            format!("The argument '{name}' requires a value, but none was supplied.")
        })?;
        if place.replace(value).is_some() {
            return Err(format!(
                "The argument '{name}' was provided more than once."
            ));
        }
    }
    let id = id.unwrap_or_else(|| "anonymous-instance".to_owned());
    let sane = |c: char| c == '-' || c.is_ascii_alphanumeric();
    if id.is_empty() || id.len() > 64 || !id.chars().all(sane) {
        return Err(format!("Invalid instance ID: {id}"));
    }
    Ok(Wanted::Run(Arguments {
        id,
        api_sock: api_sock.unwrap_or_else(|| "/run/firecracker.socket".to_owned()),
        log_path,
    }))
}
