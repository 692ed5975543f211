//! Tar archives, read one entry at a time from a stream: ustar, pax and GNU's long names.
//!
//! Written for archives of strangers: nothing is believed beyond a limit, no header can make us
//! allocate more than it holds, and nothing here touches a file system. What an entry's path may
//! mean is [`Tree`](super::tree::Tree)'s affair.

mod header;
mod pax;

use std::io::{self, Read, Seek, SeekFrom};

use self::header::{BLOCK, Header};

/// The longest path, and the longest target of a link: what Linux takes (PATH_MAX less the zero).
const MAX_PATH: u64 = 4095;
/// The most bytes of all headers together that describe one entry: an archive may have any number
/// of them in a row, and what they say is kept until the entry comes.
const MAX_EXTENDED: u64 = 1 << 20;

/// An archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It ends before it should.
    #[error("it ends in the middle of an entry")]
    CutOff,
    #[error("{0}")]
    Broken(&'static str),
    #[error("it has {0}, which is not taken; pack it again without")]
    Unsupported(&'static str),
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    /// Its target, as the guest will read it.
    Symlink(Vec<u8>),
    /// The path of the entry that it is another name of.
    HardLink(Vec<u8>),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// One entry, without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permissions, set-id bits and sticky bit.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// In seconds since 1970.
    pub(crate) mtime: i64,
    /// Bytes of data that follow; 0 for everything but a file.
    pub(crate) size: u64,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// How many bytes its names have: its path, and where it leads.
    pub(crate) fn names(&self) -> usize {
        let link = match &self.kind {
            Kind::Symlink(target) | Kind::HardLink(target) => target.len(),
            _ => 0,
        };
        self.path.len() + link
    }
}

/// Reads an archive from its beginning to its end.
pub(crate) struct Archive<R> {
    reader: R,
    skip: fn(&mut R, u64) -> io::Result<()>,
    /// Where the next byte comes from.
    position: u64,
    /// What is left of the current entry's data, and of the zeros after it.
    data: u64,
    padding: u64,
    /// Bytes of the headers so far that describe entries.
    described: u64,
    ended: bool,
}

impl<R: Read> Archive<R> {
    /// An archive whose bytes all pass by.
    pub(crate) fn new(reader: R) -> Self {
        Self::with(reader, read_over)
    }

    fn with(reader: R, skip: fn(&mut R, u64) -> io::Result<()>) -> Self {
        Self {
            reader,
            skip,
            position: 0,
            data: 0,
            padding: 0,
            described: 0,
            ended: false,
        }
    }

    /// The next entry; `None` at the end. Data of the current one that was not read is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extended = pax::Extended::default();
        let before = self.described;
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            if !header.describes() {
                let entry = header.entry(extended)?;
                self.expect_data(entry.size);
                return Ok(Some(entry));
            }
            self.described += BLOCK as u64 + header.size.min(MAX_EXTENDED);
            if self.described - before > MAX_EXTENDED {
                return Err(TarError::Broken("its headers say too much of one file"));
            }
            match header.kind {
                b'x' => extended.merge(&self.text(header.size, MAX_EXTENDED)?)?,
                b'L' => extended.path = Some(self.name(header.size)?),
                b'K' => extended.link = Some(self.name(header.size)?),
                // Defaults for all that follow, or a volume's label; nothing that matters here
                // is ever in it.
                _ => drop(self.text(header.size, MAX_EXTENDED)?),
            }
        }
    }

    /// How many bytes the headers had so far that only describe entries.
    pub(crate) fn described(&self) -> u64 {
        self.described
    }

    /// Where the current entry's data begins.
    pub(crate) fn data_offset(&self) -> u64 {
        self.position
    }

    /// Reads on in the current entry's data; 0 at its end.
    pub(crate) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let room = buffer
            .len()
            .min(usize::try_from(self.data).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        match self.reader.read(&mut buffer[..room])? {
            0 => Err(TarError::CutOff),
            count => {
                self.position += count as u64;
                self.data -= count as u64;
                Ok(count)
            }
        }
    }

    /// The reader, wherever it is.
    pub(crate) fn into_inner(self) -> R {
        self.reader
    }

    fn expect_data(&mut self, size: u64) {
        self.data = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let (data, padding) = (self.data, self.padding);
        (self.data, self.padding) = (0, 0);
        if data > 0 {
            (self.skip)(&mut self.reader, data).map_err(cut_off)?;
        }
        // Some writers leave it out where nothing follows.
        match (self.skip)(&mut self.reader, padding) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => {}
        }
        self.position += data + padding;
        Ok(())
    }

    /// The next header; `None` after two blocks of zeros, or where the stream ends between
    /// entries, as some writers leave it.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        for _ in 0..2 {
            match fill(&mut self.reader, &mut block)? {
                0 => break,
                BLOCK => self.position += BLOCK as u64,
                _ if self.position == 0 => return Err(TarError::Broken(header::NO_ARCHIVE)),
                _ => return Err(TarError::CutOff),
            }
            if block.iter().any(|&b| b != 0) {
                return Header::parse(&block).map(Some);
            }
        }
        self.ended = true;
        Ok(None)
    }

    /// The data of an entry that describes the next one.
    fn text(&mut self, size: u64, limit: u64) -> Result<Vec<u8>, TarError> {
        if size > limit {
            return Err(TarError::Broken("its extended headers are too large"));
        }
        self.expect_data(size);
        let mut text = vec![0; usize::try_from(size).unwrap_or_default()];
        let mut filled = 0;
        while filled < text.len() {
            filled += self.read_data(&mut text[filled..])?;
        }
        Ok(text)
    }

    fn name(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.text(size, MAX_PATH + 1)?;
        if let Some(end) = name.iter().position(|&b| b == 0) {
            name.truncate(end);
        }
        Ok(name)
    }
}

impl<R: Read + Seek> Archive<R> {
    /// An archive in a file, of which only the headers are read.
    pub(crate) fn seeking(reader: R) -> Self {
        Self::with(reader, |reader, count| {
            let count = i64::try_from(count).map_err(|_| io::ErrorKind::UnexpectedEof)?;
            reader.seek(SeekFrom::Current(count)).map(drop)
        })
    }
}

fn cut_off(error: io::Error) -> TarError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TarError::CutOff,
        _ => TarError::Io(error),
    }
}

fn read_over<R: Read>(reader: &mut R, count: u64) -> io::Result<()> {
    match io::copy(&mut reader.take(count), &mut io::sink())? {
        read if read == count => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads until the buffer is full or the stream ends.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
