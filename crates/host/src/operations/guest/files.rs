//! `vms/read-file` and `vms/write-file`: files inside a VM, in pieces.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hostler_operations::{Call, Method, Service, StatusCode, mutation, query};
use hostler_vmm::{FilePlace, FileWrite, PIECE_BYTES, VmName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errors::{GuestError, invalid};
use super::{Done, decoded};
use crate::host::Host;
use crate::operations::VMS_EXEC;

/// How long a file may take to be written. The last piece of one is answered when the file is flushed,
/// for which a guest is given five minutes; it may be coming up first.
const WRITTEN: Duration = Duration::from_secs(360);

/// Adds the operations on files.
pub(in crate::operations) fn operations(service: Service<Host>) -> Service<Host> {
    service
        .with(query("read-file", read_file).requires(VMS_EXEC).rest(
            Method::GET,
            "/v1/vms/{name}/file",
            StatusCode::OK,
        ))
        .with(
            mutation("write-file", write_file)
                .requires(VMS_EXEC)
                .timeout(WRITTEN)
                .rest(Method::PUT, "/v1/vms/{name}/file", StatusCode::OK),
        )
}

/// Reads a regular file in a VM, or a piece of one.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadFile {
    /// The VM's name.
    name: VmName,
    /// The file's path in the VM, absolute.
    path: String,
    /// From which byte on; 0 unless said.
    #[serde(default)]
    offset: u64,
    /// How many bytes, up to 524288, which it is unless said.
    #[serde(default = "default_length")]
    #[schemars(range(max = 524288))]
    length: u32,
}

fn default_length() -> u32 {
    PIECE_BYTES as u32
}

/// A piece of a file.
#[derive(Serialize, JsonSchema)]
struct Piece {
    /// What is in it, in base64.
    data: String,
    /// The size of the whole file in bytes.
    size: u64,
    /// What may be done with the file, in octal digits, such as 644.
    mode: String,
    /// Whether the file ends with the piece.
    end: bool,
}

async fn read_file(host: &Host, _: Call, input: ReadFile) -> Result<Piece, GuestError> {
    let (name, length) = (input.name.as_str(), input.length as usize);
    let read = host
        .machines()
        .read_file(name, &input.path, input.offset, length);
    let piece = read.await?;
    Ok(Piece {
        data: BASE64_STANDARD.encode(&piece.data),
        size: piece.size,
        mode: format!("{:03o}", piece.mode),
        end: piece.end,
    })
}

/// Writes a file in a VM. Without `offset` the data is the whole file, which appears in one step;
/// a symbolic link in its place is replaced. With `offset` alone it goes into the file as it is.
/// With `upload` pieces gather unseen, from offset 0 on, and take its place with the `last` one; when
/// none comes for ten minutes they are given up.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriteFile {
    /// The VM's name.
    name: VmName,
    /// The file's path in the VM, absolute; its directory is there already.
    path: String,
    /// What is in it, in base64; at most 524288 bytes.
    data: String,
    /// What may be done with the file, in octal digits, such as 755; absent: as with the file that
    /// was there, 644 for a new one. It counts when the file appears.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[0-7]{1,4}$"))]
    mode: Option<String>,
    /// From which byte on to write.
    #[serde(default)]
    offset: Option<u64>,
    /// Names the pieces that belong together: 1 to 40 lower-case letters and digits, which nobody
    /// else uses.
    #[serde(default)]
    upload: Option<String>,
    /// Whether this is the last piece of an upload.
    #[serde(default)]
    last: bool,
}

async fn write_file(host: &Host, _: Call, input: WriteFile) -> Result<Done, GuestError> {
    let place = match (input.upload, input.offset, input.last) {
        (Some(upload), offset, last) => FilePlace::Staged {
            upload,
            offset: offset.unwrap_or(0),
            last,
        },
        (None, _, true) => return Err(invalid("last", "it belongs to an upload")),
        (None, Some(offset), false) => FilePlace::At(offset),
        (None, None, false) => FilePlace::Whole,
    };
    let mode = input.mode.map(|mode| {
        let parsed = u32::from_str_radix(&mode, 8).ok();
        parsed
            .filter(|mode| *mode <= 0o7777)
            .ok_or_else(|| invalid("mode", "it is not one to four octal digits, such as 644"))
    });
    let write = FileWrite {
        path: input.path,
        data: decoded("data", &input.data)?,
        place,
        mode: mode.transpose()?,
    };
    host.machines()
        .write_file(input.name.as_str(), write)
        .await?;
    Ok(Done {})
}
