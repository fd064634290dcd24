//! What lies at the addresses of a stack.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::stacks::module::Module;
use crate::stacks::spaces::Spaces;
use crate::stacks::unwinder::StackFrame;
use crate::symbols::elf::Elf;
use crate::symbols::resolve::Objects;
use crate::target::lock;

/// A function at an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Function {
    /// Its name as its author wrote it; `None` where nothing tells.
    pub name: Option<String>,
    /// How many bytes behind its first the address is; `None` where it was inlined.
    pub offset: Option<u64>,
    /// The source file, in full.
    pub file: Option<String>,
    /// The line of the address or, where another function was inlined, of that call.
    pub line: Option<u64>,
    /// Whether it was inlined into the next.
    pub inlined: bool,
}

/// What lies at an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The address in its process.
    pub ip: u64,
    /// The path of the file, or a name in brackets; `None` where there is no file.
    pub object: Option<PathBuf>,
    /// The virtual address in the file, before relocation.
    pub address: Option<u64>,
    /// The function, behind those that were inlined into it; none where nothing is known of it.
    pub functions: Vec<Function>,
}

impl Place {
    /// Its object's file name.
    #[must_use]
    pub fn object_name(&self) -> Option<String> {
        let name = self.object.as_ref()?.file_name()?;
        Some(name.to_string_lossy().into_owned())
    }

    /// The function's name and how far behind its start the address is, or what there is instead: the object and the
    /// address in it, or the address alone.
    #[must_use]
    pub fn name(&self) -> String {
        match self.functions.last() {
            Some(Function { name: Some(name), offset: Some(0) | None, .. }) => name.clone(),
            Some(Function { name: Some(name), offset: Some(offset), .. }) => format!("{name}+{offset:#x}"),
            _ => self.without_function(),
        }
    }

    /// The same for a place whose function is unknown.
    #[must_use]
    pub fn without_function(&self) -> String {
        match (self.object_name(), self.address) {
            (Some(object), Some(address)) => format!("{object}+{address:#x}"),
            (Some(object), None) => format!("{:#x} ({object})", self.ip),
            (None, _) => format!("{:#x}", self.ip),
        }
    }

    /// Where in the source it is: the file's name and the line, of what was inlined last.
    #[must_use]
    pub fn source(&self) -> Option<String> {
        self.functions.first()?.source()
    }
}

impl Function {
    /// Where in the source it is: the file's name without its directory, and the line.
    #[must_use]
    pub fn source(&self) -> Option<String> {
        let file = Path::new(self.file.as_deref()?).file_name()?.to_string_lossy().into_owned();
        Some(match self.line {
            Some(line) => format!("{file}:{line}"),
            None => file,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        match self.source() {
            Some(source) => write!(f, " {source}"),
            None => Ok(()),
        }
    }
}

/// Finds out what lies at addresses, each once.
#[derive(Debug, Default)]
pub struct Symbolizer {
    objects: Arc<Objects>,
    spaces: Spaces,
    known: Mutex<HashMap<StackFrame, Arc<Place>>>,
    /// What is known of addresses of processes whatever becomes of those.
    noted: Mutex<HashMap<(i32, u64), StackFrame>>,
}

impl Symbolizer {
    /// One that reads files from `objects`, or finds them there.
    #[must_use]
    pub fn new(objects: Arc<Objects>) -> Symbolizer {
        Symbolizer { objects, ..Symbolizer::default() }
    }

    /// What lies at a frame, found out now or before.
    pub fn place(&self, frame: &StackFrame) -> Arc<Place> {
        /// More than a program has places that call.
        const MOST: usize = 1 << 16;
        if let Some(place) = lock(&self.known).get(frame) {
            return Arc::clone(place);
        }
        let place = Arc::new(self.find(frame));
        let mut known = lock(&self.known);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(frame.clone(), Arc::clone(&place));
        place
    }

    /// What lies at an address of process `pid` as far as it has that mapped, or had when it was last asked for. What it
    /// has mapped is read again as an [`Unwinder`](crate::stacks::Unwinder) does.
    pub fn place_in(&self, pid: i32, ip: u64) -> Arc<Place> {
        let noted = lock(&self.noted).get(&(pid, ip)).cloned();
        if let Some(frame) = noted {
            return self.place(&frame);
        }
        let module = self.spaces.module(pid, ip);
        self.place(&StackFrame { ip, exact: true, module })
    }

    /// Keeps what lies at an address of process `pid` for [`Symbolizer::place_in`], until the process is forgotten.
    pub fn note(&self, pid: i32, frame: &StackFrame) {
        /// More than anybody is told of.
        const MOST: usize = 1 << 16;
        let mut noted = lock(&self.noted);
        if noted.len() >= MOST {
            noted.clear();
        }
        noted.insert((pid, frame.ip), frame.clone());
    }

    /// Forgets what a process has mapped, such as when it executes another program.
    pub fn forget(&self, pid: i32) {
        lock(&self.noted).retain(|&(of, _), _| of != pid);
        self.spaces.forget(pid);
    }

    fn find(&self, frame: &StackFrame) -> Place {
        let nothing = Place { ip: frame.ip, ..Place::default() };
        let Some(module) = frame.module.as_deref() else { return nothing };
        let object = module.path().map(Path::to_owned);
        let known = module.elf(&self.objects).and_then(|elf| {
            let at = module.address_of(elf, frame.lookup_ip())?;
            Some((
                functions(elf, at, frame.ip.wrapping_sub(frame.lookup_ip())),
                module.address_of(elf, frame.ip),
            ))
        });
        let (functions, address) = known.unwrap_or_default();
        Place { object, address: address.or_else(|| offset(module, frame.ip)), functions, ..nothing }
    }
}

/// The offset in a file that cannot be read.
fn offset(module: &Module, ip: u64) -> Option<u64> {
    module.path().map(|_| module.offset_of(ip))
}

/// The functions at virtual address `at`, from which what is told lies `behind` bytes.
fn functions(elf: &Elf, at: u64, behind: u64) -> Vec<Function> {
    let symbol = elf.function_at(at);
    let offset = symbol.map(|symbol| (at - symbol.address).wrapping_add(behind));
    let name = || symbol.map(|symbol| crate::symbols::elf::demangle(symbol.name()).into_owned());
    let frames = elf.debug_info().ok().and_then(|debug| debug.frames(at).ok()).unwrap_or_default();
    let mut functions: Vec<Function> = frames
        .into_iter()
        .map(|frame| Function {
            name: if frame.inlined { frame.function } else { frame.function.or_else(name) },
            offset: if frame.inlined { None } else { offset },
            file: frame.file,
            line: frame.line,
            inlined: frame.inlined,
        })
        .collect();
    if functions.is_empty() && symbol.is_some() {
        functions.push(Function { name: name(), offset, file: None, line: None, inlined: false });
    }
    functions
}
