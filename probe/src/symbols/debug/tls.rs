//! Where the thread-local variables of an object are (Drepper, "ELF Handling For Thread-Local Storage", version 2).

use std::ops::Range;

use object::LittleEndian;
use object::elf::{
    DT_FLAGS_1, DT_RELA, DT_RELASZ, ET_EXEC, FileHeader64, PT_DYNAMIC, PT_LOAD, PT_TLS, R_X86_64_DTPMOD64,
    R_X86_64_TPOFF64, Rela64,
};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, Rela};

use crate::language::{Binary, Expression, Register, Unary, Width};

/// How a thread finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThreadLocal {
    /// Those of a program: they end so many bytes after their start at the thread pointer.
    Program(u64),
    /// Those of a library whose number among the thread's blocks stands at this virtual address.
    Numbered(u64),
    /// Those of a library whose distance from the thread pointer, less `behind`, stands at a virtual address.
    Placed { at: u64, behind: u64 },
    /// It is not known.
    Unknown,
}

/// DF_1_PIE.
const PROGRAM: u64 = 0x0800_0000;

type Header = FileHeader64<LittleEndian>;

impl ThreadLocal {
    /// Where the object says what they begin with, by virtual addresses (PT_TLS); empty where it has none.
    pub(super) fn block(data: &[u8]) -> Range<u64> {
        let segments = Header::parse(data).and_then(|header| header.program_headers(LittleEndian, data));
        let block = segments.ok().and_then(|segments| {
            let block = segments.iter().find(|segment| segment.p_type(LittleEndian) == PT_TLS)?;
            let start = block.p_vaddr(LittleEndian);
            Some(start..start.checked_add(block.p_memsz(LittleEndian))?)
        });
        block.unwrap_or_default()
    }

    pub(super) fn of(data: &[u8]) -> ThreadLocal {
        Self::read(data).unwrap_or(ThreadLocal::Unknown)
    }

    fn read(data: &[u8]) -> Option<ThreadLocal> {
        let header = Header::parse(data).ok()?;
        let segments = header.program_headers(LittleEndian, data).ok()?;
        let block = segments.iter().find(|segment| segment.p_type(LittleEndian) == PT_TLS)?;
        let align = block.p_align(LittleEndian).max(1);
        let program =
            Some(ThreadLocal::Program(block.p_memsz(LittleEndian).checked_next_multiple_of(align)?));
        if header.e_type(LittleEndian) == ET_EXEC {
            return program;
        }
        let dynamic = segments.iter().find(|segment| segment.p_type(LittleEndian) == PT_DYNAMIC)?;
        let entries = dynamic.dynamic(LittleEndian, data).ok()??;
        let value = |tag| {
            entries.iter().find(|entry| entry.d_tag(LittleEndian) == tag).map(|e| e.d_val(LittleEndian))
        };
        if value(DT_FLAGS_1).is_some_and(|flags| flags & PROGRAM != 0) {
            return program;
        }
        let (table, size) = (value(DT_RELA)?, value(DT_RELASZ)?);
        let loaded = segments.iter().filter(|segment| segment.p_type(LittleEndian) == PT_LOAD);
        let offset = loaded.filter_map(|segment| {
            let distance = table.checked_sub(segment.p_vaddr(LittleEndian))?;
            (distance < segment.p_filesz(LittleEndian))
                .then(|| segment.p_offset(LittleEndian).checked_add(distance))?
        });
        let start = usize::try_from(offset.take(1).next()?).ok()?;
        let end = start.checked_add(usize::try_from(size).ok()?)?;
        let count = (end - start) / size_of::<Rela64<LittleEndian>>();
        let (relocations, _) =
            object::pod::slice_from_bytes::<Rela64<LittleEndian>>(data.get(start..end)?, count).ok()?;
        relocations.iter().find_map(|relocation| {
            // Those of this object; a named one might be another's.
            let own = relocation.r_sym(LittleEndian, false) == 0;
            let at = relocation.r_offset(LittleEndian);
            match relocation.r_type(LittleEndian, false) {
                R_X86_64_DTPMOD64 if own => Some(ThreadLocal::Numbered(at)),
                R_X86_64_TPOFF64 if own => Some(ThreadLocal::Placed {
                    at,
                    behind: relocation.r_addend(LittleEndian).cast_unsigned(),
                }),
                _ => None,
            }
        })
    }

    /// The address of the variable at `offset`, where `at` is the address of something at a virtual one.
    pub(super) fn address(self, offset: Expression, at: impl Fn(u64) -> Expression) -> Option<Expression> {
        let thread = Expression::register(Register::FsBase);
        let load = |address: Expression| address.unary(Unary::Load(Width::Quadword));
        let add = |a: Expression, b: Expression| a.binary(Binary::Add, b);
        let block = match self {
            ThreadLocal::Program(size) => thread.binary(Binary::Subtract, size.into()),
            ThreadLocal::Numbered(slot) => {
                let blocks = load(add(thread, 8.into()));
                load(add(blocks, load(at(slot)).binary(Binary::Multiply, 16.into())))
            }
            ThreadLocal::Placed { at: slot, behind } => {
                add(thread, load(at(slot))).binary(Binary::Subtract, behind.into())
            }
            ThreadLocal::Unknown => return None,
        };
        Some(add(block, offset))
    }
}
