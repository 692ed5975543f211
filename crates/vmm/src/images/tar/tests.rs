use std::io::Cursor;

use proptest::prelude::*;

use super::*;

/// A header block with a right checksum.
fn header(path: &str, kind: u8, size: u64, link: &str) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[100..107].copy_from_slice(b"0004755");
    block[108..115].copy_from_slice(b"0001750");
    block[116..123].copy_from_slice(b"0000012");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000100");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..263].copy_from_slice(b"ustar\0");
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|&b| u64::from(b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    data
}

fn entries(archive: &[u8]) -> Result<Vec<Entry>, TarError> {
    let mut archive = Archive::new(archive);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next()? {
        entries.push(entry);
    }
    Ok(entries)
}

#[test]
fn an_entry_keeps_its_mode_owner_and_data() {
    let mut bytes = header("bin/su", b'0', 5, "");
    bytes.extend(padded(b"hello"));
    bytes.extend(header("bin/sudo", b'1', 0, "bin/su"));
    bytes.extend([0; 1024]);
    let mut archive = Archive::new(&bytes[..]);
    let entry = archive.next().unwrap().unwrap();
    assert_eq!(
        (entry.mode, entry.uid, entry.gid, entry.mtime),
        (0o4755, 1000, 10, 64)
    );
    let mut data = [0; 16];
    assert_eq!(archive.read_data(&mut data).unwrap(), 5);
    assert_eq!(archive.read_data(&mut data).unwrap(), 0);
    let link = archive.next().unwrap().unwrap();
    assert_eq!(link.kind, Kind::HardLink(b"bin/su".to_vec()));
    assert!(archive.next().unwrap().is_none());
}

#[test]
fn extended_headers_and_long_names_describe_the_next_entry_only() {
    let records = b"18 path=long/path\n16 uid=99999999\n26 SCHILY.xattr.user.a=\0b\n";
    let records = &records[..];
    let mut bytes = header("pax", b'x', records.len() as u64, "");
    bytes.extend(padded(records));
    bytes.extend(header("short", b'0', 0, ""));
    bytes.extend(header("L", b'L', 201, ""));
    bytes.extend(padded(&[&[b'n'; 200][..], b"\0"].concat()));
    bytes.extend(header("n", b'0', 0, ""));
    bytes.extend(header("plain", b'5', 0, ""));
    let entries = entries(&bytes).unwrap();
    assert_eq!(entries[0].path, b"long/path");
    assert_eq!(entries[0].uid, 99_999_999);
    assert_eq!(entries[0].xattrs, [(b"user.a".to_vec(), b"\0b".to_vec())]);
    assert_eq!(entries[1].path, [b'n'; 200]);
    assert_eq!((&*entries[2].path, entries[2].uid), (&b"plain"[..], 1000));
}

#[test]
fn a_size_that_is_larger_than_the_archive_costs_no_memory() {
    for kind in [b'x', b'g', b'L', b'K'] {
        let error = entries(&header("big", kind, 1 << 32, "")).unwrap_err();
        assert!(matches!(error, TarError::Broken(_)), "{error}");
    }
    let error = entries(&header("big", b'0', 1 << 32, "")).unwrap_err();
    assert!(matches!(error, TarError::CutOff), "{error}");
}

/// A header of this kind, with this text.
fn describing(kind: u8, text: &[u8]) -> Vec<u8> {
    [header("d", kind, text.len() as u64, ""), padded(text)].concat()
}

/// A record with this attribute.
fn attribute(name: &str, value: &[u8]) -> Vec<u8> {
    let body = [format!(" SCHILY.xattr.{name}=").as_bytes(), value, b"\n"].concat();
    let length = (body.len()..).find(|length| body.len() + length.to_string().len() == *length);
    [length.unwrap().to_string().into_bytes(), body].concat()
}

#[test]
fn headers_in_a_row_cost_no_more_memory_than_one() {
    let mut bytes = Vec::new();
    for number in 0..8 {
        let record = attribute(&format!("user.{number}"), &[0; 200_000]);
        bytes.extend(describing(b'x', &record));
    }
    bytes.extend(header("a", b'0', 0, ""));
    let error = entries(&bytes).unwrap_err().to_string();
    assert!(error.contains("too much of one file"), "{error}");
    // Those without anything in them cost time.
    for kind in [b'x', b'g', b'L', b'K', b'V'] {
        let error = entries(&header("d", kind, 0, "").repeat(5000)).unwrap_err();
        assert!(error.to_string().contains("too much"), "{error}");
    }
    // What is said of one entry is not held against the next.
    let one = [
        describing(b'x', &attribute("user.a", &[0; 700_000])),
        header("a", b'0', 0, ""),
    ];
    assert_eq!(entries(&one.concat().repeat(3)).unwrap().len(), 3);
}

#[test]
fn an_entry_with_very_many_attributes_is_refused_at_once() {
    let attributes = |count: usize| {
        let records = (0..count).map(|number| attribute(&number.to_string(), b""));
        let records = describing(b'x', &records.collect::<Vec<_>>().concat());
        [records, header("a", b'0', 0, "")].concat()
    };
    assert_eq!(entries(&attributes(1024)).unwrap()[0].xattrs.len(), 1024);
    let error = entries(&attributes(1025)).unwrap_err().to_string();
    assert!(error.contains("too many attributes"), "{error}");
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let error = entries(&header("hole", b'S', 0, "")).unwrap_err();
    assert!(error.to_string().contains("sparse files"), "{error}");
    assert!(entries(&[b'x'; 2048]).is_err());
    let mut damaged = header("a", b'0', 0, "");
    damaged[0] = b'b';
    assert!(entries(&damaged).is_err());
}

#[test]
fn an_archive_may_end_with_its_data() {
    let mut bytes = header("a", b'0', 5, "");
    bytes.extend(b"hello");
    assert_eq!(entries(&bytes).unwrap().len(), 1);
    assert!(matches!(entries(&bytes[..514]), Err(TarError::CutOff)));
}

#[test]
fn no_size_is_too_large_to_be_refused() {
    // A label's size, too, which nobody would have to believe.
    for kind in [b'0', b'V', b'x', b'L'] {
        let mut block = header("a", kind, 0, "");
        block[124..136].copy_from_slice(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
        seal(&mut block);
        assert!(matches!(entries(&block), Err(TarError::Broken(_))));
    }
}

#[test]
fn extended_headers_of_one_entry_are_bounded_together() {
    let mut bytes = Vec::new();
    for number in 0..40 {
        let value = "x".repeat(31_972);
        let record = format!("32000 SCHILY.xattr.user.{number:02}={value}\n");
        assert_eq!(record.len(), 32_000);
        bytes.extend(header("pax", b'x', 32_000, ""));
        bytes.extend(padded(record.as_bytes()));
    }
    let mut some = bytes[..bytes.len() * 3 / 4].to_vec();
    some.extend(header("a", b'0', 0, ""));
    assert_eq!(entries(&some).unwrap()[0].xattrs.len(), 30);
    assert!(matches!(entries(&bytes), Err(TarError::Broken(_))));
}

#[test]
fn seeking_finds_the_same_entries_and_where_their_data_is() {
    let mut bytes = header("a", b'0', 600, "");
    bytes.extend(padded(&[7; 600]));
    bytes.extend(header("b", b'0', 1, ""));
    bytes.extend(padded(b"x"));
    let mut archive = Archive::seeking(Cursor::new(&bytes));
    assert_eq!(archive.next().unwrap().unwrap().path, b"a");
    assert_eq!(archive.data_offset(), 512);
    assert_eq!(archive.next().unwrap().unwrap().path, b"b");
    assert_eq!(archive.data_offset(), 512 + 1024 + 512);
    assert!(archive.next().unwrap().is_none());
}

proptest! {
    #[test]
    fn no_archive_is_too_strange_to_be_refused(
        mut blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), BLOCK), 0..4),
        sealed: bool, kind in prop::sample::select(b"0123456xgLKSV\0".to_vec()),
    ) {
        for block in &mut blocks {
            if sealed {
                block[124..136].copy_from_slice(b"00000000777\0");
                for field in [100..108, 108..116, 116..124, 329..337, 337..345] {
                    block[field].fill(b'0');
                }
                block[136..148].fill(b'0');
                block[156] = kind;
                seal(block);
            }
        }
        let _ = entries(&blocks.concat());
    }
}
