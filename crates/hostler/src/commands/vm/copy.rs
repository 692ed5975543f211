//! `hostler vm cp`: files into a VM and out of it, in pieces, and there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use clap::Args;
use serde_json::{Value, json};

use crate::client::{Api, Connect, LONG_PATIENCE};
use crate::failure::{Doing, Failure};
use crate::output;

/// How much is sent or asked for at one time, in bytes; hosts take no more.
const PIECE: usize = 512 * 1024;

#[derive(Args)]
pub(crate) struct Copy {
    /// What to copy: a file here, or NAME:/path in a VM
    source: Place,
    /// Where to: a file or directory here (- for the standard output), or NAME:/path in a VM; with
    /// a / at the end it keeps its name
    target: Place,
    #[command(flatten)]
    connect: Connect,
}

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Here(PathBuf),
    Inside { vm: String, path: String },
}

impl FromStr for Place {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inside = text.split_once(':').filter(|(vm, path)| {
            let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            !vm.is_empty() && vm.bytes().all(is_name) && path.starts_with('/')
        });
        Ok(match inside {
            Some((vm, path)) => Self::Inside {
                vm: vm.to_owned(),
                path: path.to_owned(),
            },
            None => Self::Here(text.into()),
        })
    }
}

pub(crate) async fn copy(copy: Copy) -> Result<(), Failure> {
    let api = copy.connect.open()?;
    let copied = match (&copy.source, &copy.target) {
        (Place::Here(file), Place::Inside { vm, path }) => upload(&api, file, vm, path).await?,
        (Place::Inside { vm, path }, Place::Here(file)) => download(&api, vm, path, file).await?,
        (Place::Here(_), Place::Here(_)) => {
            return Err(Failure::new(
                "neither is in a VM; write NAME:/path, with a path from the root on, for the one that is",
            ));
        }
        (Place::Inside { .. }, Place::Inside { .. }) => {
            return Err(Failure::new(
                "both are in a VM; copy it to here first, then into the other one",
            ));
        }
    };
    output::progress(format!("copied {copied} bytes"));
    Ok(())
}

async fn upload(api: &Api, file: &Path, vm: &str, path: &str) -> Result<u64, Failure> {
    let tried = || format!("cannot read {}", file.display());
    let mut source = File::open(file).doing(tried)?;
    let metadata = source.metadata().doing(tried)?;
    if metadata.is_dir() {
        let place = file.display();
        let problem = format!(
            "{place} is a directory; pack it: tar -C {place} -c . | hostler vm exec -i {vm} -- \
             tar -C {path} -x"
        );
        return Err(Failure::new(problem));
    }
    let mut path = path.to_owned();
    if path.ends_with('/') {
        path.push_str(&name_of(file)?);
    }
    let mode = format!("{:o}", metadata.permissions().mode() & 0o777);
    let upload = upload_name()?;
    let mut sent = 0;
    let mut piece = read_piece(&mut source).doing(tried)?;
    loop {
        let next = read_piece(&mut source).doing(tried)?;
        let last = next.is_empty();
        let body = json!({
            "path": path,
            "data": BASE64_STANDARD.encode(&piece),
            "mode": mode,
            "upload": upload,
            "offset": sent,
            "last": last,
        });
        // The last piece is answered when the whole file is flushed.
        api.put(&["v1", "vms", vm, "file"])
            .body(body)
            .patience(LONG_PATIENCE)
            .send()
            .await?;
        sent += piece.len() as u64;
        if last {
            return Ok(sent);
        }
        piece = next;
    }
}

/// As much as is asked for; less at the end.
fn read_piece(source: &mut File) -> io::Result<Vec<u8>> {
    let mut piece = Vec::new();
    source.take(PIECE as u64).read_to_end(&mut piece)?;
    Ok(piece)
}

/// Names the pieces of this upload, and of no other.
fn upload_name() -> Result<String, Failure> {
    let mut random = [0; 16];
    let source = File::open("/dev/urandom");
    source
        .and_then(|mut source| source.read_exact(&mut random))
        .doing(|| "cannot make a random name")?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn download(api: &Api, vm: &str, path: &str, file: &Path) -> Result<u64, Failure> {
    if file == Path::new("-") {
        let mut stdout = io::stdout();
        let (copied, _) = fetch(api, vm, path, &mut stdout).await?;
        return Ok(copied);
    }
    let file = match file.is_dir() {
        true => file.join(name_of(Path::new(path))?),
        false => file.to_owned(),
    };
    let mut part = file.clone().into_os_string();
    part.push(format!(".{}.part", std::process::id()));
    let part = Part(part.into());
    let tried = || format!("cannot write {}", file.display());
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part.0)
        .doing(tried)?;
    let (copied, mode) = fetch(api, vm, path, &mut target).await?;
    // What may be done with it is this machine's affair beyond that.
    let permissions = fs::Permissions::from_mode(mode & 0o777);
    target.set_permissions(permissions).doing(tried)?;
    fs::rename(&part.0, &file).doing(tried)?;
    Ok(copied)
}

/// Writes a file of a VM; returns its size and its mode.
async fn fetch(
    api: &Api,
    vm: &str,
    path: &str,
    to: &mut impl Write,
) -> Result<(u64, u32), Failure> {
    let mut copied = 0;
    loop {
        let ask = api
            .get(&["v1", "vms", vm, "file"])
            .query("path", path)
            .query("offset", &copied.to_string());
        let piece: Value = ask.send().await?;
        let data = piece["data"].as_str().unwrap_or_default();
        let data = BASE64_STANDARD.decode(data);
        let data = data.doing(|| "the server sent a piece that is none")?;
        to.write_all(&data)
            .and_then(|()| to.flush())
            .doing(|| "cannot write what was copied")?;
        copied += data.len() as u64;
        if piece["end"] == true {
            let mode = piece["mode"].as_str().unwrap_or_default();
            return Ok((copied, u32::from_str_radix(mode, 8).unwrap_or(0o644)));
        }
        if data.is_empty() {
            return Err(Failure::new("the server sent a piece with nothing in it"));
        }
    }
}

fn name_of(path: &Path) -> Result<String, Failure> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned)
        .ok_or_else(|| Failure::new(format!("{} has no name to keep", path.display())))
}

/// A file that is not whole yet, and goes unless it becomes so.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_vm_is_told_from_what_is_here() {
        let inside = |vm: &str, path: &str| Place::Inside {
            vm: vm.into(),
            path: path.into(),
        };
        let place = |text: &str| text.parse::<Place>().unwrap_or_else(|never| match never {});
        assert_eq!(place("web-1:/etc/hosts"), inside("web-1", "/etc/hosts"));
        assert_eq!(place("web-1:/a:/b"), inside("web-1", "/a:/b"));
        for here in [
            "hosts",
            "./web:/x",
            "/a:/b",
            "web-1:etc",
            ":/x",
            "-",
            "C:\\x",
        ] {
            assert_eq!(place(here), Place::Here(here.into()), "{here}");
        }
    }
}
