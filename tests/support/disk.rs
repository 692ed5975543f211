//! Disks that are full.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A small file system of its own, unmounted when the test ends. Only root may mount one.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    pub(crate) fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=700"),
                "tmpfs",
            ])
            .arg(directory.path())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: a full disk can only be made where mounting is allowed");
            return None;
        }
        Some(Self(directory))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it with empty files until there is room for so many more. Returns where they are.
    pub(crate) fn fill_with_files(&self, room: usize) -> PathBuf {
        let place = self.path().join("files");
        std::fs::create_dir(&place).expect("made");
        let file = |number: usize| place.join(number.to_string());
        let made = (0..).take_while(|number| std::fs::write(file(*number), "").is_ok());
        let made = made.count();
        for number in made - room..made {
            std::fs::remove_file(file(number)).expect("removed");
        }
        place
    }

    /// Takes all that is left, and two pages less: a directory can still be made.
    pub(crate) fn fill(&self, ballast: &Path) {
        let mut file = std::fs::File::create(ballast).expect("a file");
        let chunk = vec![0; 64 << 10];
        let mut written = 0;
        while let Ok(more) = std::io::Write::write(&mut file, &chunk) {
            written += more as u64;
        }
        file.set_len(written.saturating_sub(8192))
            .expect("shortened");
    }

    pub(crate) fn resize(&self, size: &str) {
        let option = format!("remount,size={size}");
        let status = Command::new("mount")
            .args(["-o", &option])
            .arg(self.0.path())
            .status();
        assert!(status.expect("mount runs").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
    }
}
