//! The index from iced-x86's `Code` to rows.
//!
//! A row is an entry of the manual: its mnemonics, flags that generic code obeys, and the function that
//! picks what will execute a given combination of operands. The rows stand in the files of
//! `families/`, next to the functions that do the work.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use iced_x86::{Code, Mnemonic};
use once_cell::race::OnceBox;

use crate::decode::flags::Flags;
use crate::families;
use crate::run::row::Row;

/// Whether the encoding is a string instruction: MOVSD and CMPSD name an SSE2 instruction too.
fn is_string_code(code: Code) -> bool {
    let operands = code.op_code();
    (0..operands.op_count()).any(|index| {
        use iced_x86::OpCodeOperandKind as K;
        matches!(operands.op_kind(index), K::seg_rSI | K::es_rDI)
    })
}

/// The row of an encoding, if a table has it.
pub(crate) fn row(code: Code) -> Option<&'static Row> {
    static INDEX: OnceBox<Vec<Option<&'static Row>>> = OnceBox::new();
    let index = INDEX.get_or_init(|| {
        let mut by_mnemonic = vec![[None; 2]; Mnemonic::values().len()];
        for row in rows() {
            for &mnemonic in row.mnemonics {
                let string = usize::from(row.flags.contains(Flags::STRING));
                by_mnemonic[mnemonic as usize][string] = Some(row);
            }
        }
        let by_code = Code::values()
            .map(|code| by_mnemonic[code.mnemonic() as usize][usize::from(is_string_code(code))]);
        Box::new(by_code.collect())
    });
    *index.get(code as usize)?
}

/// All rows of all families.
pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    families::ALL.iter().copied().flatten().copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of iced-x86's codes is in exactly one row or in none.
    #[test]
    fn every_code_has_at_most_one_row() {
        for code in Code::values() {
            let string = is_string_code(code);
            let found: Vec<_> = rows()
                .filter(|row| {
                    row.mnemonics.contains(&code.mnemonic()) && row.flags.contains(Flags::STRING) == string
                })
                .map(|row| row.name)
                .collect();
            assert!(found.len() <= 1, "{code:?} is in {found:?}");
            assert_eq!(row(code).map(|row| row.name), found.first().copied(), "{code:?}");
        }
    }
}
