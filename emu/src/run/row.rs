//! A row of the table, and how it picks by width what executes an instruction.

use iced_x86::Mnemonic;

use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::run::context::Execute;
use crate::run::phases::Layout;

/// An entry of the manual.
pub(crate) struct Row {
    /// As the table prints it.
    pub(crate) name: &'static str,
    pub(crate) mnemonics: &'static [Mnemonic],
    pub(crate) flags: Flags,
    /// The function for these operands, if the row has one.
    pub(crate) select: fn(&Form<'_>) -> Option<Execute>,
    /// What decoding must know of a vector instruction's operands.
    pub(crate) vector: Option<Layout>,
}

impl Row {
    /// The row of a vector instruction whose function fetches and commits itself.
    pub(crate) const fn with(self, layout: Layout) -> Row {
        Row { vector: Some(layout), ..self }
    }

    /// The row of an instruction that the host's own computes, whichever processor is emulated.
    pub(crate) const fn by_host(self) -> Row {
        Row { flags: self.flags.union(Flags::BY_HOST), ..self }
    }
}

/// Calls a function generic over its width with the width that is known only at run time.
macro_rules! by_width {
    ($bytes:expr, $($function:ident)::+ $(, <$($more:ty),+>)?) => {
        match $bytes {
            1 => Some($($function)::+::<u8 $(, $($more),+)?> as $crate::run::context::Execute),
            2 => Some($($function)::+::<u16 $(, $($more),+)?> as $crate::run::context::Execute),
            4 => Some($($function)::+::<u32 $(, $($more),+)?> as $crate::run::context::Execute),
            8 => Some($($function)::+::<u64 $(, $($more),+)?> as $crate::run::context::Execute),
            _ => None,
        }
    };
}
pub(crate) use by_width;
