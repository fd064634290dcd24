//! What code on a stack belongs to.

use std::ffi::OsStr;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::stacks::rules::Table;
use crate::symbols::elf::Elf;
use crate::symbols::resolve::Objects;
use crate::target::mapped;
use crate::target::maps::{Mapping, Maps, Permissions};

/// Code of a file where processes have mapped it, or that the kernel provides; or code without a file, such as that of a
/// JIT compiler.
#[derive(Debug)]
pub struct Module {
    number: u32,
    pid: i32,
    mapping: Mapping,
    /// The file, as it was when this became known.
    file: Option<File>,
    elf: OnceLock<Option<Arc<Elf>>>,
    table: OnceLock<Option<Table>>,
}

impl PartialEq for Module {
    fn eq(&self, other: &Module) -> bool {
        self.number == other.number && self.mapping == other.mapping
    }
}

impl Eq for Module {}

impl Hash for Module {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

impl Module {
    /// That of a mapping of process `pid`, whose file is opened now: the process may be gone when it is read.
    pub(crate) fn new(number: u32, pid: i32, mapping: Mapping, file: Option<File>) -> Module {
        Module { number, pid, mapping, file, elf: OnceLock::new(), table: OnceLock::new() }
    }

    /// Its number: 0 for the first that was seen, 1 for the next.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The file's path as the kernel prints it, or a name in brackets; `None` where there is no file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.mapping.path.as_deref()
    }

    /// The file offset of the code at `ip`, an address in the process.
    #[must_use]
    pub fn offset_of(&self, ip: u64) -> u64 {
        ip.wrapping_sub(self.mapping.start).wrapping_add(self.mapping.offset)
    }

    /// The virtual address in the file of the code at `ip`, an address in the process.
    pub(crate) fn address_of(&self, elf: &Elf, ip: u64) -> Option<u64> {
        elf.address_of_offset(self.offset_of(ip))
    }

    /// The file, read now or before; `None` where there is none that could be read.
    pub(crate) fn elf(&self, objects: &Objects) -> Option<&Arc<Elf>> {
        self.elf.get_or_init(|| self.read(objects)).as_ref()
    }

    /// Its unwind tables.
    pub(crate) fn table(&self, objects: &Objects) -> Option<&Table> {
        let read = || Some(Table::new(self.elf(objects)?.unwind_tables()?));
        self.table.get_or_init(read).as_ref()
    }

    fn read(&self, objects: &Objects) -> Option<Arc<Elf>> {
        if self.mapping.file().is_none() && !self.mapping.is_vdso() {
            return None;
        }
        objects.of_mapping(self.pid, &self.mapping, self.file.as_ref())
    }

    pub(crate) fn to_sent(&self) -> SentModule {
        let Mapping { start, end, offset, dev, inode, ref path, .. } = self.mapping;
        let path = path.as_ref().map(|path| path.as_os_str().as_bytes().to_owned());
        SentModule { number: self.number, pid: self.pid, start, end, offset, dev, inode, path }
    }
}

/// [`Module`] on its way to another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SentModule {
    number: u32,
    pid: i32,
    start: u64,
    end: u64,
    offset: u64,
    dev: (u32, u32),
    inode: u64,
    path: Option<Vec<u8>>,
}

impl From<SentModule> for Module {
    fn from(sent: SentModule) -> Module {
        let SentModule { number, pid, start, end, offset, dev, inode, path } = sent;
        let path = path.map(|path| PathBuf::from(OsStr::from_bytes(&path)));
        let perms = Permissions::READ | Permissions::EXECUTE;
        let mapping = Mapping { start, end, perms, offset, dev, inode, path };
        let file = opened(pid, &mapping);
        Module::new(number, pid, mapping, file)
    }
}

/// The file of a mapping, while its process can still show it.
pub(crate) fn opened(pid: i32, mapping: &Mapping) -> Option<File> {
    mapping.file()?;
    let maps = Maps::read(pid).ok()?;
    mapped::open(&maps, mapping).ok()
}
