//! Condition codes (SDM volume 1, appendix B).

use iced_x86::ConditionCode;

use crate::model::registers::Rflags;

/// A condition as its truth table: bit i is set if it holds for the flags that [`index`] maps to i.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Condition(u32);

/// CF, PF, ZF, SF and OF as a number of five bits.
#[inline(always)]
fn index(flags: Rflags) -> u32 {
    let f = flags.bits() as u32;
    f & 1 | f >> 1 & 2 | f >> 4 & 0xc | f >> 7 & 0x10
}

impl Condition {
    /// Of an instruction; never true for one without a condition.
    pub(crate) fn of(code: ConditionCode) -> Condition {
        let table = (0..32).filter(|&flags| holds(code, flags)).fold(0, |table, flags| table | 1 << flags);
        Condition(table)
    }

    /// Whether it holds.
    #[inline(always)]
    pub(crate) fn holds(self, flags: Rflags) -> bool {
        self.0 >> index(flags) & 1 != 0
    }
}

fn holds(code: ConditionCode, index: u32) -> bool {
    let [cf, pf, zf, sf, of] = [0, 1, 2, 3, 4].map(|bit| index >> bit & 1 != 0);
    match code {
        ConditionCode::None => false,
        ConditionCode::o => of,
        ConditionCode::no => !of,
        ConditionCode::b => cf,
        ConditionCode::ae => !cf,
        ConditionCode::e => zf,
        ConditionCode::ne => !zf,
        ConditionCode::be => cf || zf,
        ConditionCode::a => !cf && !zf,
        ConditionCode::s => sf,
        ConditionCode::ns => !sf,
        ConditionCode::p => pf,
        ConditionCode::np => !pf,
        ConditionCode::l => sf != of,
        ConditionCode::ge => sf == of,
        ConditionCode::le => zf || sf != of,
        ConditionCode::g => !zf && sf == of,
    }
}
