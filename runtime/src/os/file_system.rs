//! File systems by their magic number on Linux, and whether a mapping performs well on them.

/// The file system that a file is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its usual name.
    pub name: &'static str,
    /// Whether its pages come over a network or from another process. A mapping then causes many small requests, and a
    /// failed one ends the program by SIGBUS; large reads are fast and return an error.
    pub remote: bool,
}

/// Magic numbers from Linux's `magic.h` and from the sources of file systems outside the kernel.
const KNOWN: [(u32, &str, bool); 28] = [
    (0x0000_6969, "nfs", true),
    (0x0000_517b, "smb", true),
    (0xff53_4d42, "cifs", true),
    (0xfe53_4d42, "smb2", true),
    (0x6573_5546, "fuse", true),
    (0x0102_1997, "9p", true),
    (0x00c3_6400, "ceph", true),
    (0x0bd0_0bd0, "lustre", true),
    (0x1983_0326, "beegfs", true),
    (0x4750_4653, "gpfs", true),
    (0x2003_0528, "orangefs", true),
    (0xaad7_aaea, "panfs", true),
    (0x5346_414f, "afs", true),
    (0x6b41_4653, "kafs", true),
    (0x7375_7245, "coda", true),
    (0x786f_4256, "vboxsf", true),
    (0xbacb_acbc, "vmhgfs", true),
    (0x0000_ef53, "ext4", false),
    (0x5846_5342, "xfs", false),
    (0x9123_683e, "btrfs", false),
    (0x2fc1_2fc1, "zfs", false),
    (0xf2f5_2010, "f2fs", false),
    (0xca45_1a4e, "bcachefs", false),
    (0x0102_1994, "tmpfs", false),
    (0x8584_58f6, "ramfs", false),
    (0x794c_7630, "overlayfs", false),
    (0x7371_7368, "squashfs", false),
    (0x2011_bab0, "exfat", false),
];

impl FileSystem {
    /// A file system that is not in the list.
    pub const UNKNOWN: FileSystem = FileSystem { name: "an unknown file system", remote: false };

    /// The file system with this magic number, the `f_type` of `statfs`.
    pub fn with_magic(magic: u32) -> FileSystem {
        let known = KNOWN.iter().find(|known| known.0 == magic);
        known.map_or(FileSystem::UNKNOWN, |&(_, name, remote)| FileSystem { name, remote })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_numbers_and_names_are_unique() {
        for (index, known) in KNOWN.iter().enumerate() {
            assert!(KNOWN[..index].iter().all(|other| other.0 != known.0 && other.1 != known.1), "{known:?}");
        }
        assert_eq!(FileSystem::with_magic(0x6969), FileSystem { name: "nfs", remote: true });
        assert_eq!(FileSystem::with_magic(0xef53), FileSystem { name: "ext4", remote: false });
        assert_eq!(FileSystem::with_magic(1), FileSystem::UNKNOWN);
    }
}
