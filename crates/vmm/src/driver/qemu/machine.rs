//! Which machine QEMU should be, on this host: the one whose guests are up soonest.
//!
//! | host | machine | why |
//! |---|---|---|
//! | hardware virtualisation works | microvm | nothing to emulate, nothing to probe |
//! | else, the TSC's frequency is known exactly | microvm | the guest is told the frequency |
//! | else | q35 | the guest can measure the frequency, as it cannot on a microvm |
//!
//! Under emulation the guest's time-stamp counter is the host's. A Linux guest on a microvm without
//! KVM measures its frequency against timers that the emulation serves late, and now and then hangs
//! over that. `tsc_early_khz=` spares it the measurement; a wrong value would make its clock run
//! wrong, so only an exact one will do.

use std::ffi::OsString;

use crate::driver::Bus;

/// What every guest kernel is told: speak on the serial console, only about trouble; skip what a
/// VM does not need; and let a panic end the VM at once.
const KERNEL: &str =
    "console=ttyS0 quiet nokaslr noreplace-smp cryptomgr.notests panic=-1 rdinit=/init";

/// How QEMU runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Kvm,
    Tcg,
}

/// The machine that QEMU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    MicrovmKvm,
    MicrovmTcg { tsc_khz: u64 },
    Q35Tcg,
}

impl Machine {
    pub(crate) fn choose(accelerator: Accelerator, tsc_khz: Option<u64>) -> Self {
        match (accelerator, tsc_khz) {
            (Accelerator::Kvm, _) => Self::MicrovmKvm,
            (Accelerator::Tcg, Some(tsc_khz)) => Self::MicrovmTcg { tsc_khz },
            (Accelerator::Tcg, None) => Self::Q35Tcg,
        }
    }

    pub(crate) fn accelerator(self) -> Accelerator {
        match self {
            Self::MicrovmKvm => Accelerator::Kvm,
            Self::MicrovmTcg { .. } | Self::Q35Tcg => Accelerator::Tcg,
        }
    }

    pub(crate) fn bus(self) -> Bus {
        match self {
            Self::MicrovmKvm | Self::MicrovmTcg { .. } => Bus::Mmio,
            Self::Q35Tcg => Bus::Pci,
        }
    }

    /// `-machine`, and what belongs to it.
    pub(crate) fn arguments(self) -> Vec<OsString> {
        let arguments: &[&str] = match self {
            Self::MicrovmKvm => &["-machine", "microvm,accel=kvm,acpi=on", "-cpu", "host"],
            Self::MicrovmTcg { .. } => &["-machine", "microvm,accel=tcg,acpi=on", "-cpu", "max"],
            // qboot instead of SeaBIOS, and none of the devices that a PC usually has: each costs
            // the guest time to find.
            Self::Q35Tcg => &[
                "-machine",
                "q35,accel=tcg,i8042=off,smbus=off,sata=off,vmport=off",
                "-cpu",
                "max",
                "-bios",
                "qboot.rom",
            ],
        };
        arguments.iter().map(OsString::from).collect()
    }

    /// The kind of a virtio device on this machine, and what else it needs to be told.
    pub(crate) fn device(self, kind: &str) -> String {
        match (self.bus(), kind) {
            (Bus::Mmio | Bus::MmioVsock, kind) => format!("virtio-{kind}-device"),
            // Without its option ROM, which only a boot from the network would use.
            (Bus::Pci, "net") => "virtio-net-pci,romfile=".to_owned(),
            (Bus::Pci, kind) => format!("virtio-{kind}-pci"),
        }
    }

    /// The kind of a device that shares a directory.
    pub(crate) fn shared_directory(self) -> &'static str {
        match self.bus() {
            Bus::Mmio | Bus::MmioVsock => "vhost-user-fs-device",
            Bus::Pci => "vhost-user-fs-pci",
        }
    }

    pub(crate) fn kernel_command_line(self) -> String {
        match self {
            Self::MicrovmTcg { tsc_khz } => format!("{KERNEL} tsc_early_khz={tsc_khz}"),
            Self::MicrovmKvm | Self::Q35Tcg => KERNEL.to_owned(),
        }
    }
}

/// The exact frequency of the host's time-stamp counter in kHz, from `/proc/cpuinfo`; `None` where
/// it cannot be told exactly.
///
/// Linux derives `bogomips` from the counter's frequency, two to one. It *knows* that frequency
/// only where the processor or the hypervisor says it (`tsc_known_freq`), and it only means
/// anything while it never changes (`constant_tsc`, `nonstop_tsc`). Two decimals leave 5 kHz open:
/// two millionths, a tenth of what an ordinary clock crystal errs.
pub(crate) fn tsc_khz(cpuinfo: &str) -> Option<u64> {
    let value = |key: &str| {
        let line = cpuinfo
            .lines()
            .find(|line| line.split(':').next().map(str::trim) == Some(key));
        line?.split_once(':').map(|(_, value)| value.trim())
    };
    let flags: Vec<&str> = value("flags")?.split(' ').collect();
    let steady = ["constant_tsc", "nonstop_tsc", "tsc_known_freq"];
    if !steady.iter().all(|flag| flags.contains(flag)) {
        return None;
    }
    let (whole, hundredths) = value("bogomips")?.split_once('.')?;
    if hundredths.len() != 2 {
        return None;
    }
    let hundredths =
        whole.parse::<u64>().ok()?.checked_mul(100)? + hundredths.parse::<u64>().ok()?;
    // A counter of less than 100 MHz is none.
    hundredths.checked_mul(5).filter(|khz| *khz >= 100_000)
}

/// Whether the host's processor offers hardware virtualisation at all.
pub(crate) fn has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split(' ').any(|flag| matches!(flag, "vmx" | "svm")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nflags\t\t: fpu tsc constant_tsc nonstop_tsc \
        tsc_known_freq hypervisor\nbogomips\t: 5192.20\n\nprocessor\t: 1\n";

    #[test]
    fn a_known_frequency_is_told_exactly() {
        assert_eq!(tsc_khz(CPUINFO), Some(2_596_100));
        assert_eq!(
            tsc_khz(&CPUINFO.replace("5192.20", "5999.99")),
            Some(2_999_995)
        );
    }

    #[test]
    fn a_frequency_that_is_only_measured_is_not_used() {
        for flag in ["constant_tsc", "nonstop_tsc", "tsc_known_freq"] {
            assert_eq!(
                tsc_khz(&CPUINFO.replace(flag, "other")),
                None,
                "without {flag}"
            );
        }
        for bogomips in [
            "",
            "5192",
            "5192.2",
            "x.20",
            "0.00",
            "99999999999999999999.00",
        ] {
            assert_eq!(
                tsc_khz(&CPUINFO.replace("5192.20", bogomips)),
                None,
                "{bogomips:?}"
            );
        }
        assert_eq!(tsc_khz(""), None);
    }

    #[test]
    fn without_a_known_frequency_the_guest_gets_a_machine_that_can_measure_it() {
        assert_eq!(Machine::choose(Accelerator::Tcg, None), Machine::Q35Tcg);
        let microvm = Machine::choose(Accelerator::Tcg, Some(2_596_100));
        assert!(
            microvm
                .kernel_command_line()
                .ends_with(" tsc_early_khz=2596100")
        );
        assert_eq!(
            Machine::choose(Accelerator::Kvm, Some(1)),
            Machine::MicrovmKvm
        );
    }

    #[test]
    fn virtualization_shows_in_the_processors_flags() {
        assert!(!has_virtualization(CPUINFO));
        assert!(has_virtualization(&CPUINFO.replace("fpu", "fpu vmx")));
        assert!(has_virtualization(&CPUINFO.replace("fpu", "fpu svm")));
    }
}
