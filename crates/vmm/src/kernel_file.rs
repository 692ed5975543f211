//! Files that a machine can boot: recognised, checked, and unpacked where that makes them boot
//! faster.
//!
//! A bzImage unpacks itself inside the guest, which under software emulation takes most of a
//! second. What it holds is an ELF file, and QEMU starts that directly if it has a PVH entry point.
//! So a bzImage is unpacked once, at import, when we know how.

use std::borrow::Cow;
use std::env::consts::ARCH;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lz4;

/// No kernel has more bytes than this, packed or not.
pub(crate) const MAX_SIZE: usize = 512 * 1024 * 1024;

/// The form of a kernel's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KernelFormat {
    /// An ELF file with an entry point for virtual machines (PVH).
    Elf,
    /// x86's packed form, which unpacks itself.
    #[serde(rename = "bzimage")]
    BzImage,
    /// arm64's `Image`, a PE file.
    Pe,
}

impl fmt::Display for KernelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elf => "elf",
            Self::BzImage => "bzimage",
            Self::Pe => "pe",
        })
    }
}

/// A file is not a kernel that can be booted here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotBootable {
    /// It is something else.
    #[error(
        "this is neither an ELF file nor a bzImage; give a vmlinux or a vmlinuz for x86-64 (not \
         packed again by gzip or xz)"
    )]
    Unknown,
    /// It is for another processor.
    #[error("this kernel is for {0}, and this host is {ARCH}; give one for the host's processor")]
    Architecture(&'static str),
    /// It has no entry point for virtual machines.
    #[error(
        "this ELF file has no PVH entry point; use a Linux kernel that was built with CONFIG_PVH, \
         or its bzImage"
    )]
    NoPvhEntry,
    /// It is damaged.
    #[error("this kernel is damaged: {0}; fetch it again")]
    Damaged(String),
}

/// A kernel in the form in which it boots best.
#[derive(Debug)]
pub(crate) struct Bootable<'a> {
    pub(crate) format: KernelFormat,
    pub(crate) bytes: Cow<'a, [u8]>,
}

/// Recognises a kernel and brings it into the form in which it boots best.
pub(crate) fn prepare(file: &[u8]) -> Result<Bootable<'_>, NotBootable> {
    prepare_for(ARCH, file)
}

fn prepare_for<'a>(arch: &str, file: &'a [u8]) -> Result<Bootable<'a>, NotBootable> {
    // The arm64 boot protocol puts "ARM\x64" there (Documentation/arch/arm64/booting).
    let is_arm = file.get(0x38..0x3c) == Some(b"ARM\x64");
    match (is_arm, arch == "aarch64") {
        (true, true) => {
            return Ok(Bootable {
                format: KernelFormat::Pe,
                bytes: file.into(),
            });
        }
        (true, false) => return Err(NotBootable::Architecture("arm64")),
        (false, true) => return Err(NotBootable::Unknown),
        (false, false) => {}
    }
    if file.starts_with(b"\x7fELF") {
        check_elf(file)?;
        return Ok(Bootable {
            format: KernelFormat::Elf,
            bytes: file.into(),
        });
    }
    // The x86 boot protocol puts a flag and "HdrS" there (Documentation/arch/x86/boot).
    if file.get(0x1fe..0x200) != Some(b"\x55\xaa") || file.get(0x202..0x206) != Some(b"HdrS") {
        return Err(NotBootable::Unknown);
    }
    let packed = Bootable {
        format: KernelFormat::BzImage,
        bytes: file.into(),
    };
    let payload = payload(file).ok_or_else(|| NotBootable::Damaged("it is cut off".to_owned()))?;
    if !lz4::is_legacy(payload) {
        // Packed in another way: it boots, only later.
        return Ok(packed);
    }
    let elf = lz4::unpack_legacy(payload, MAX_SIZE)
        .map_err(|damaged| NotBootable::Damaged(damaged.to_string()))?;
    match check_elf(&elf) {
        Ok(()) => Ok(Bootable {
            format: KernelFormat::Elf,
            bytes: elf.into(),
        }),
        Err(NotBootable::NoPvhEntry) => Ok(packed),
        Err(error) => Err(error),
    }
}

/// The packed kernel in a bzImage, without its unpacked size, which follows it in four bytes.
fn payload(file: &[u8]) -> Option<&[u8]> {
    let number = |at| Some(u32::from_le_bytes(*file.get(at..)?.first_chunk()?) as usize);
    let setup_sectors = match *file.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1)
        .checked_mul(512)?
        .checked_add(number(0x248)?)?;
    let end = start.checked_add(number(0x24c)?.checked_sub(4)?)?;
    file.get(start..end)
}

/// Checks that an ELF file is an x86-64 kernel with a PVH entry point: a note named "Xen" of type
/// 18 (Xen's `public/elfnote.h`, XEN_ELFNOTE_PHYS32_ENTRY).
fn check_elf(file: &[u8]) -> Result<(), NotBootable> {
    const X86_64: u64 = 62;
    const AARCH64: u64 = 183;
    let damaged = || NotBootable::Damaged("its ELF header is cut off".to_owned());
    let elf = Elf(file);
    // What was packed may be anything.
    if !file.starts_with(b"\x7fELF") {
        return Err(NotBootable::Damaged(
            "what it holds is no ELF file".to_owned(),
        ));
    }
    if file.get(4..6) != Some(&[2, 1]) {
        return Err(NotBootable::Architecture(
            "a 32-bit or big-endian processor",
        ));
    }
    match elf.number(18, 2).ok_or_else(damaged)? {
        X86_64 => {}
        AARCH64 => return Err(NotBootable::Architecture("arm64")),
        _ => return Err(NotBootable::Architecture("another processor")),
    }
    // Thousands of headers may name the same large part, which would be looked through for hours.
    let mut left = file.len();
    for notes in elf.note_segments().ok_or_else(damaged)? {
        let overlap = || NotBootable::Damaged("its notes overlap".to_owned());
        left = left.checked_sub(notes.len()).ok_or_else(overlap)?;
        if has_pvh_note(notes) {
            return Ok(());
        }
    }
    Err(NotBootable::NoPvhEntry)
}

/// A 64-bit little-endian ELF file (elf(5)), read with care.
struct Elf<'a>(&'a [u8]);

impl<'a> Elf<'a> {
    fn number(&self, at: u64, width: usize) -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(self.0.get(at..at.checked_add(width)?)?);
        Some(u64::from_le_bytes(bytes))
    }

    /// The contents of the program headers of type PT_NOTE.
    fn note_segments(&self) -> Option<impl Iterator<Item = &'a [u8]>> {
        const PT_NOTE: u64 = 4;
        let (table, size, count) = (
            self.number(32, 8)?,
            self.number(54, 2)?,
            self.number(56, 2)?,
        );
        let file = self.0;
        Some((0..count).filter_map(move |index| {
            let elf = Elf(file);
            let header = table.checked_add(index * size)?;
            if elf.number(header, 4)? != PT_NOTE {
                return None;
            }
            let start = usize::try_from(elf.number(header.checked_add(8)?, 8)?).ok()?;
            let length = usize::try_from(elf.number(header.checked_add(32)?, 8)?).ok()?;
            file.get(start..start.checked_add(length)?)
        }))
    }
}

/// Looks for the note in a segment: length of name, length of content, type, then both, each
/// padded to four bytes.
fn has_pvh_note(mut segment: &[u8]) -> bool {
    const PHYS32_ENTRY: u32 = 18;
    while let Some((header, rest)) = segment.split_first_chunk::<12>() {
        let number = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let name_length = number(0) as usize;
        let skip = name_length.next_multiple_of(4) + (number(4) as usize).next_multiple_of(4);
        if number(8) == PHYS32_ENTRY && rest.get(..name_length) == Some(b"Xen\0") {
            return true;
        }
        let Some(next) = rest.get(skip..) else {
            return false;
        };
        segment = next;
    }
    false
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An ELF file with one note, and nothing to run.
    pub(crate) fn elf(machine: u16, note_type: u32) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&1u16.to_le_bytes());
        let mut header = vec![0; 56];
        header[0] = 4;
        header[8..16].copy_from_slice(&120u64.to_le_bytes());
        header[32..40].copy_from_slice(&24u64.to_le_bytes());
        file.extend(header);
        for number in [4, 8, note_type] {
            file.extend(number.to_le_bytes());
        }
        file.extend(b"Xen\0\0\0\0\0\0\0\0\0");
        file
    }

    #[test]
    fn a_kernel_is_taken_where_its_processor_is() {
        let mut image = vec![0; 64];
        image[..2].copy_from_slice(b"MZ");
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        let taken = prepare_for("aarch64", &image).unwrap();
        assert_eq!(
            (taken.format, &taken.bytes[..]),
            (KernelFormat::Pe, &image[..])
        );
        let elsewhere = prepare_for("x86_64", &image).unwrap_err();
        assert_eq!(elsewhere, NotBootable::Architecture("arm64"));
        let x86 = elf(62, 18);
        assert!(prepare_for("aarch64", &x86).is_err());
        assert_eq!(
            prepare_for("x86_64", &x86).unwrap().format,
            KernelFormat::Elf
        );
    }

    /// A bzImage around a payload.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 1024];
        file[0x1f1] = 1;
        file[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x24c..0x250].copy_from_slice(&(payload.len() as u32 + 4).to_le_bytes());
        file.extend(payload);
        file.extend([0; 4]);
        file
    }

    fn lz4(data: &[u8]) -> Vec<u8> {
        let block = lz4_flex::block::compress(data);
        let mut packed = 0x184C_2102u32.to_le_bytes().to_vec();
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(block);
        packed
    }

    #[test]
    fn a_packed_kernel_is_unpacked_when_it_can_start_without_its_wrapping() {
        let vmlinux = elf(62, 18);
        let file = bzimage(&lz4(&vmlinux));
        let kernel = prepare(&file).unwrap();
        assert_eq!(
            (kernel.format, &*kernel.bytes),
            (KernelFormat::Elf, &*vmlinux)
        );
    }

    #[test]
    fn a_packed_kernel_stays_packed_when_it_needs_its_wrapping() {
        for file in [bzimage(&lz4(&elf(62, 1))), bzimage(b"\xfd7zXZ, say")] {
            let kernel = prepare(&file).unwrap();
            assert_eq!(
                (kernel.format, &*kernel.bytes),
                (KernelFormat::BzImage, &*file)
            );
        }
    }

    #[test]
    fn what_cannot_boot_here_is_refused_with_the_reason() {
        let refused = |file: &[u8]| prepare(file).unwrap_err();
        assert_eq!(refused(b""), NotBootable::Unknown);
        assert_eq!(refused(&[0; 4096]), NotBootable::Unknown);
        assert_eq!(refused(&elf(62, 1)), NotBootable::NoPvhEntry);
        assert_eq!(refused(&elf(183, 18)), NotBootable::Architecture("arm64"));
        let mut nothing = elf(62, 18);
        nothing[0] = 0;
        let nothing = refused(&bzimage(&lz4(&nothing)));
        assert!(matches!(nothing, NotBootable::Damaged(_)));
        let truncated = &bzimage(&lz4(&elf(62, 18)))[..1100];
        assert!(matches!(refused(truncated), NotBootable::Damaged(_)));
        let mut arm = vec![0; 64];
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert_eq!(refused(&arm), NotBootable::Architecture("arm64"));
    }

    #[test]
    fn no_part_of_a_file_is_looked_through_again_and_again() {
        let mut file = elf(62, 1);
        file.resize(1 << 20, 0);
        // As many headers as there can be, all of them one, which is about the whole file.
        file[54..56].fill(0);
        file[56..58].fill(0xff);
        file[72..80].fill(0);
        file[96..104].copy_from_slice(&(1u64 << 20).to_le_bytes());
        let begun = std::time::Instant::now();
        assert!(matches!(
            prepare_for("x86_64", &file),
            Err(NotBootable::Damaged(_))
        ));
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn no_file_is_too_strange_to_be_refused(
            mut file in prop::collection::vec(any::<u8>(), 0..2000), kind in 0..3,
        ) {
            match kind {
                0 if file.len() > 6 => file[..6].copy_from_slice(b"\x7fELF\x02\x01"),
                1 if file.len() > 0x250 => {
                    file[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
                    file[0x202..0x206].copy_from_slice(b"HdrS");
                }
                _ => {}
            }
            let _ = prepare(&file);
        }
    }
}
