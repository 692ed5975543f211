//! Layers: tar archives, packed or not, in a part of a file. Each is read twice. The first time
//! its entries are listed and its digests made; the second time the data of those files that are
//! still wanted goes to the disk.

mod unpack;

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use self::unpack::Unpacked;
use super::digest::{Digest, Hashing};
use super::ext4::{FileWriter, PlacedFile};
use super::tar::{Archive, Entry, TarError};
use super::tree::{MAX_ENTRIES, MAX_NAMES, Refused};

const CHUNK: usize = 128 * 1024;
/// What an attribute costs in memory besides its name and value.
const ATTRIBUTE: usize = 64;

/// A layer as it lies somewhere on this host.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// What its bytes have to be, if that is known.
    pub(crate) digest: Option<Digest>,
    /// What its bytes have to be once unpacked, if that is known.
    pub(crate) diff_id: Option<Digest>,
    /// Whether it lies in our own store, where nobody changes it between two readings.
    pub(crate) is_ours: bool,
}

/// Why a layer is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(transparent)]
    Refused(#[from] Refused),
    /// What it unpacks to is too much.
    #[error("it unpacks to more than {limit_mb} MiB; give a larger size_mb if it is to be trusted")]
    TooLarge { limit_mb: u64 },
    #[error("its names are too many to be kept in memory")]
    TooManyNames,
    #[error("its content is {found} and should be {wanted}; it is damaged, or not what it says")]
    Digest { wanted: Digest, found: Digest },
    #[error("it was changed while it was read; try again when nobody writes to it")]
    Changed,
    /// The disk of the image refused.
    #[error(transparent)]
    Write(io::Error),
    #[error("the import was given up")]
    Cancelled,
}

/// What all layers of an import may use together, and how far they are.
#[derive(Debug)]
pub(crate) struct Meter {
    limit_mb: u64,
    unpacked_left: AtomicU64,
    entries_left: AtomicU64,
    names_left: AtomicU64,
    exceeded: AtomicBool,
    cancelled: AtomicBool,
    /// Bytes of layers, as they lie there, that were read.
    pub(crate) done: AtomicU64,
}

impl Meter {
    pub(crate) fn new(limit_mb: u64) -> Self {
        Self {
            limit_mb,
            unpacked_left: AtomicU64::new(limit_mb.saturating_mul(1 << 20)),
            entries_left: AtomicU64::new(MAX_ENTRIES as u64),
            names_left: AtomicU64::new(MAX_NAMES as u64),
            exceeded: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            done: AtomicU64::new(0),
        }
    }

    /// Ends every reading of this import.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn spend(from: &AtomicU64, amount: u64, bill: &Cell<u64>) -> bool {
        let spend = |left: u64| left.checked_sub(amount);
        let spent = from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        if spent.is_ok() {
            bill.set(bill.get() + amount);
        }
        spent.is_ok()
    }

    /// Takes back what a reading used that was for nothing: the layer may be read once more.
    fn give_back(&self, bill: &Bill) {
        for (to, amount) in [
            (&self.unpacked_left, &bill.unpacked),
            (&self.entries_left, &bill.entries),
            (&self.names_left, &bill.names),
        ] {
            to.fetch_add(amount.take(), Ordering::Relaxed);
        }
    }

    fn too_large(&self) -> LayerError {
        LayerError::TooLarge {
            limit_mb: self.limit_mb,
        }
    }

    /// Why reading failed, if it was our own doing.
    fn explain(&self, error: impl Into<LayerError>) -> LayerError {
        if self.cancelled.load(Ordering::Relaxed) {
            return LayerError::Cancelled;
        }
        if self.exceeded.load(Ordering::Relaxed) {
            return self.too_large();
        }
        error.into()
    }

    fn admit(&self, entry: &Entry, bill: &Bill) -> Result<(), LayerError> {
        if !Self::spend(&self.entries_left, 1, &bill.entries) {
            return Err(Refused::TooMany.into());
        }
        let attributes = entry
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len() + ATTRIBUTE);
        let names = entry.names() + attributes.sum::<usize>();
        if !Self::spend(&self.names_left, names as u64, &bill.names) {
            return Err(LayerError::TooManyNames);
        }
        // Said by its header: nobody has to unpack it to find out.
        if entry.size > self.unpacked_left.load(Ordering::Relaxed) {
            return Err(self.too_large());
        }
        Ok(())
    }
}

/// What one reading of a layer has used.
#[derive(Debug, Default)]
struct Bill {
    unpacked: Cell<u64>,
    entries: Cell<u64>,
    names: Cell<u64>,
}

/// Stops at the limit, and when nobody waits any more.
struct Metered<'a, R> {
    inner: R,
    meter: &'a Meter,
    /// Where what passes is counted; it was counted before when it is read again.
    bill: Option<&'a Bill>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.meter.cancelled.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let count = self.inner.read(buffer)?;
        let spend =
            |bill: &Bill| Meter::spend(&self.meter.unpacked_left, count as u64, &bill.unpacked);
        if !self.bill.is_none_or(spend) {
            self.meter.exceeded.store(true, Ordering::Relaxed);
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(count)
    }
}

/// A part of a file, from its beginning to its end.
pub(crate) struct Part<'a> {
    file: &'a File,
    position: u64,
    end: u64,
    meter: &'a Meter,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        if room == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut buffer[..room], self.position)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count as u64;
        self.meter.done.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

type Raw<'a> = BufReader<Hashing<Part<'a>>>;

/// What the first reading of a layer found.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) entries: Vec<Entry>,
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
}

impl Layer {
    fn raw<'a>(&'a self, meter: &'a Meter) -> Raw<'a> {
        let part = Part {
            file: &self.file,
            position: self.offset,
            end: self.offset + self.length,
            meter,
        };
        BufReader::with_capacity(CHUNK, Hashing::new(part))
    }

    /// Lists the entries and checks every digest.
    pub(crate) fn scan(&self, meter: &Meter) -> Result<Scanned, LayerError> {
        let bill = Bill::default();
        let scanned = self.scan_on(&bill, meter);
        if scanned.is_err() {
            meter.give_back(&bill);
        }
        scanned
    }

    /// Whether its bytes are still those that it has by its digest.
    pub(crate) fn is_whole(&self, meter: &Meter) -> bool {
        let mut raw = self.raw(meter);
        let read = io::copy(&mut raw, &mut io::sink());
        read.is_ok() && check(self.digest.as_ref(), &raw.into_inner().finish().0).is_ok()
    }

    fn scan_on(&self, bill: &Bill, meter: &Meter) -> Result<Scanned, LayerError> {
        let failed = |error: io::Error| meter.explain(TarError::Io(error));
        let unpacked = Unpacked::open(self.raw(meter)).map_err(failed)?;
        let metered = Metered {
            inner: unpacked,
            meter,
            bill: Some(bill),
        };
        let mut archive = Archive::new(Hashing::new(metered));
        let mut entries = Vec::new();
        while let Some(entry) = archive.next().map_err(|error| meter.explain(error))? {
            meter.admit(&entry, bill)?;
            entries.push(entry);
        }
        let mut rest = archive.into_inner();
        io::copy(&mut rest, &mut io::sink()).map_err(failed)?;
        let (diff_id, metered) = rest.finish();
        let digest = finish_raw(metered.inner).map_err(failed)?;
        check(self.digest.as_ref(), &digest)?;
        check(self.diff_id.as_ref(), &diff_id)?;
        Ok(Scanned {
            entries,
            digest,
            diff_id,
        })
    }

    /// Unpacks the whole into a file; returns how long that is.
    pub(crate) fn unpack(&self, target: &File, meter: &Meter) -> Result<u64, LayerError> {
        let failed = |error: io::Error| meter.explain(TarError::Io(error));
        let bill = Bill::default();
        let mut unpacked = Metered {
            inner: Unpacked::open(self.raw(meter)).map_err(failed)?,
            meter,
            bill: Some(&bill),
        };
        let mut buffer = vec![0; CHUNK];
        let mut length = 0;
        loop {
            match unpacked.read(&mut buffer).map_err(failed)? {
                0 => return Ok(length),
                count => {
                    let written = target.write_all_at(&buffer[..count], length);
                    written.map_err(LayerError::Write)?;
                    length += count as u64;
                }
            }
        }
    }

    /// Writes the data of these files, which are in the order of the archive.
    pub(crate) fn replay(
        &self,
        files: &[PlacedFile],
        digest: &Digest,
        disk: &File,
        meter: &Meter,
    ) -> Result<(), LayerError> {
        let failed = |error: io::Error| meter.explain(TarError::Io(error));
        let mut archive = Archive::new(Metered {
            inner: Unpacked::open(self.raw(meter)).map_err(failed)?,
            meter,
            bill: None,
        });
        let mut buffer = vec![0; CHUNK];
        let mut index = 0;
        let mut wanted = files.iter().peekable();
        while let Some(file) = wanted.peek() {
            let entry = archive.next().map_err(|error| meter.explain(error))?;
            let entry = entry.ok_or(LayerError::Changed)?;
            if file.at.entry == index {
                if entry.size != file.size {
                    return Err(LayerError::Changed);
                }
                let mut writer = FileWriter::of(disk, file);
                loop {
                    let read = archive.read_data(&mut buffer);
                    match read.map_err(|error| meter.explain(error))? {
                        0 => break,
                        count => writer.write(&buffer[..count]).map_err(LayerError::Write)?,
                    }
                }
                wanted.next();
            }
            index += 1;
        }
        if !self.is_ours {
            let unpacked = archive.into_inner().inner;
            if finish_raw(unpacked).map_err(failed)? != *digest {
                return Err(LayerError::Changed);
            }
        }
        Ok(())
    }
}

/// Reads what is left of a layer, of which nothing may stay unseen.
fn finish_raw(unpacked: Unpacked<Raw<'_>>) -> io::Result<Digest> {
    let mut raw = unpacked.into_raw().ok_or(io::ErrorKind::BrokenPipe)?;
    io::copy(&mut raw, &mut io::sink())?;
    Ok(raw.into_inner().finish().0)
}

fn check(wanted: Option<&Digest>, found: &Digest) -> Result<(), LayerError> {
    match wanted {
        Some(wanted) if wanted != found => Err(LayerError::Digest {
            wanted: wanted.clone(),
            found: found.clone(),
        }),
        _ => Ok(()),
    }
}
