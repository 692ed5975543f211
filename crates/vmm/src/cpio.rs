//! Archives that a Linux kernel unpacks into its initial RAM file system.
//!
//! The form is "newc" (the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`):
//! headers of hexadecimal text, everything padded to four bytes. Archives can simply follow each
//! other, and later files come on top of earlier ones; that is how a VM's own configuration
//! is added to what all VMs of a kernel share.

/// The mode bits that tell kinds of files apart (inode(7)).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive in the making.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory. Those above it have to be there already.
    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file, with permission bits such as `0o644`.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, (0, 0), content);
    }

    /// Adds a character device by its major and minor number.
    pub(crate) fn character_device(&mut self, path: &str, permissions: u32, number: (u32, u32)) {
        self.entry(path, CHARACTER_DEVICE | permissions, number, &[]);
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = 1;
        let name_size = path.len() as u32 + 1;
        // The form has 32 bits for a size; nothing that is loaded into memory at boot comes near.
        debug_assert!(u32::try_from(content.len()).is_ok());
        let fields = [
            self.entries,
            mode,
            0, // user
            0, // group
            links,
            0, // modification time
            content.len() as u32,
            0, // device of the archive
            0,
            device.0,
            device.1,
            name_size,
            0, // checksum, unused in this form
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What an archive says, read back field by field.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[6 + index * 8..14 + index * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap() as usize
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = std::str::from_utf8(&bytes[110..110 + name_size - 1])
                .unwrap()
                .to_owned();
            let start = (110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(bytes.len(), start, "something follows the trailer");
                return entries;
            }
            entries.push((name, mode as u32, bytes[start..start + size].to_vec()));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn kinds_of_files_are_told_apart() {
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.character_device("dev/console", 0o600, (5, 1));
        archive.file("init", 0o755, b"abc");
        let kinds: Vec<_> = read(&archive.finish())
            .into_iter()
            .map(|(name, mode, _)| (name, mode))
            .collect();
        let expected = [
            ("dev", 0o40755),
            ("dev/console", 0o20600),
            ("init", 0o100755),
        ];
        assert_eq!(kinds, expected.map(|(name, mode)| (name.to_owned(), mode)));
    }

    proptest! {
        #[test]
        fn every_file_is_read_back_as_it_was(
            files in prop::collection::vec(
                ("[a-z]{1,40}", prop::collection::vec(any::<u8>(), 0..200)), 0..10,
            ),
        ) {
            let mut archive = Archive::default();
            for (name, content) in &files {
                archive.file(name, 0o644, content);
            }
            let bytes = archive.finish();
            prop_assert_eq!(bytes.len() % 4, 0, "archives that follow each other need alignment");
            let found: Vec<_> =
                read(&bytes).into_iter().map(|(name, _, content)| (name, content)).collect();
            prop_assert_eq!(found, files);
        }
    }
}
