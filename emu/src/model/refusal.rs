//! Why an instruction is not emulated.

use core::fmt;

use iced_x86::{Code, CpuidFeature};

/// The reason why [`Displaced::decode`](crate::Displaced::decode) refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes are no instruction that the decoder knows.
    Invalid {
        /// The first byte.
        first: u8,
    },
    /// The bytes are no instruction that the decoder knows, but APX has made instructions of such: behind a REX2
    /// prefix, or by fields of EVEX that were reserved.
    Apx,
    /// The bytes are no instruction that the decoder knows, but an EVEX encoding that AVX-512 leaves undefined, and
    /// AVX10.2 has made instructions of many.
    Avx10,
    /// The bytes are no instruction that the decoder knows, but AMX-TF32, AMX-FP8, AMX-MOVRS or AMX-TRANSPOSE have one
    /// of this opcode.
    Amx,
    /// The bytes end before the instruction does.
    Truncated {
        /// How many there were.
        length: usize,
    },
    /// No row of the opcode tables has this instruction.
    NoRow(Code),
    /// The row has no function for this combination of operands.
    NoForm(Code),
    /// The host's own instruction would compute it, but this host has none.
    NotOnHost(Code),
}

impl Refusal {
    /// The instruction, where the bytes were one.
    #[must_use]
    pub fn code(self) -> Option<Code> {
        match self {
            Refusal::NoRow(code) | Refusal::NoForm(code) | Refusal::NotOnHost(code) => Some(code),
            Refusal::Invalid { .. }
            | Refusal::Apx
            | Refusal::Avx10
            | Refusal::Amx
            | Refusal::Truncated { .. } => None,
        }
    }

    /// Whether the decoder knows no such instruction: it may be newer, or none at all.
    #[must_use]
    pub fn is_unknown(self) -> bool {
        matches!(self, Refusal::Invalid { .. } | Refusal::Apx | Refusal::Avx10 | Refusal::Amx)
    }

    /// Why there is no row for an instruction, where that is on purpose.
    #[must_use]
    pub fn left_out(code: Code) -> Option<&'static str> {
        let features = code.cpuid_features();
        LEFT_OUT.iter().find(|(feature, _)| features.contains(feature)).map(|(_, why)| *why)
    }

    /// The reason in a few words without values, to count by.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::Invalid { .. } => "not an instruction",
            Refusal::Apx => "APX, which the decoder does not know",
            Refusal::Avx10 => "undefined in AVX-512, and maybe of AVX10.2, which the decoder does not know",
            Refusal::Amx => "AMX beyond what the decoder knows",
            Refusal::Truncated { .. } => "truncated",
            Refusal::NoRow(code) => Refusal::left_out(code).unwrap_or("not emulated yet"),
            Refusal::NoForm(code) => Refusal::left_out(code).unwrap_or("operands not emulated"),
            Refusal::NotOnHost(_) => {
                "an approximation that only processors that have it compute, and the host does not"
            }
        }
    }
}

/// What is left out on purpose, and why, by the features that it needs. Of 3DNow! that is what has no row.
const LEFT_OUT: &[(CpuidFeature, &str)] = {
    use CpuidFeature as F;
    const XEON_PHI: &str = "of Xeon Phi only";
    const APPROXIMATION: &str = "an approximation that its manual defines by its precision only";
    const CYRIX: &str = "of Cyrix' processors only";
    &[
        (F::AVX512ER, XEON_PHI),
        (F::AVX512PF, XEON_PHI),
        (F::AVX512_4FMAPS, XEON_PHI),
        (F::AVX512_4VNNIW, XEON_PHI),
        (F::KNC, XEON_PHI),
        (F::D3NOW, APPROXIMATION),
        (F::D3NOWEXT, APPROXIMATION),
        (F::CYRIX_D3NOW, APPROXIMATION),
        (F::MPX, "a NOP where the system has not enabled MPX, as none does, and decoded as one"),
        (F::LWP, "lightweight profiling, whose state no system enables any more"),
        (F::SGX1, "would enter an enclave, which only the thread itself can"),
        (F::CYRIX_EMMI, CYRIX),
        (F::CYRIX_DDI, CYRIX),
        (F::CYRIX_DMI, CYRIX),
        (F::CYRIX_FPU, CYRIX),
        (F::CYRIX_SHR, CYRIX),
        (F::CYRIX_SMINT, CYRIX),
        (F::CYRIX_SMINT_0F7E, CYRIX),
        (F::CYRIX_SMM, CYRIX),
    ]
};

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Invalid { first } => write!(f, "not an instruction (first byte {first:#04x})"),
            Refusal::Apx | Refusal::Avx10 | Refusal::Amx => write!(f, "{}", self.reason()),
            Refusal::Truncated { length } => write!(f, "the instruction is longer than the {length} bytes"),
            Refusal::NotOnHost(code) => write!(f, "{code:?} is {}", self.reason()),
            Refusal::NoRow(code) | Refusal::NoForm(code) => match (Refusal::left_out(*code), self) {
                (Some(why), _) => write!(f, "{code:?} is not emulated: {why}"),
                (None, Refusal::NoRow(_)) => write!(f, "{code:?} is not emulated yet"),
                (None, _) => write!(f, "these operands of {code:?} are not emulated"),
            },
        }
    }
}

impl core::error::Error for Refusal {}
