//! Which parts of a thread an instruction needs.

use iced_x86::{EncodingKind, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};

use crate::decode::flags::Flags;
use crate::decode::processor::Processor;
use crate::model::touches::Touches;
use crate::model::xsave;

impl Touches {
    /// From the operands, and from the row's flags what the operands do not say.
    pub(crate) fn of(instruction: &Instruction, flags: Flags, processor: &Processor) -> Touches {
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(instruction);
        let mut touches = Touches::empty();
        for memory in info.used_memory() {
            touches |= match memory.access() {
                OpAccess::Read | OpAccess::CondRead => Touches::MEMORY_READ,
                OpAccess::Write | OpAccess::CondWrite => Touches::MEMORY_WRITE,
                OpAccess::ReadWrite | OpAccess::ReadCondWrite => Touches::MEMORY_READ | Touches::MEMORY_WRITE,
                OpAccess::None | OpAccess::NoMemAccess => Touches::empty(),
            };
        }
        let encoding = instruction.code().op_code().encoding();
        for used in info.used_registers() {
            // VZEROUPPER names registers that not every processor has.
            let register = match used.register() {
                register if encoding == EncodingKind::VEX && register.is_zmm() => Register::YMM0,
                register => register,
            };
            touches |= register_touches(register);
            // Other encodings clear all that lies above what they write, as far as there is such state.
            let is_written = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
            if encoding != EncodingKind::Legacy && is_written && register.is_vector_register() {
                touches |= Touches::AVX;
                if processor.xcr0 & xsave::feature::ZMM_HI256 != 0 {
                    touches |= Touches::AVX512;
                }
            }
        }
        let in_memory = instruction.op_kinds().any(|kind| kind == OpKind::Memory);
        let atomic = instruction.has_lock_prefix() || flags.contains(Flags::ATOMIC) && in_memory;
        touches.set(Touches::ATOMIC, atomic);
        for (flag, touch) in [
            (Flags::X87, Touches::X87),
            (Flags::SSE, Touches::SSE),
            (Flags::THIS_CORE, Touches::THIS_CORE),
            (Flags::SHADOW_STACK, Touches::SHADOW_STACK),
            (Flags::PKRU, Touches::PKRU),
            (Flags::SEGMENTS, Touches::SEGMENTS),
            (Flags::EXTENDED, Touches::EXTENDED),
            (Flags::TILES, Touches::TILES),
        ] {
            if flags.contains(flag) {
                touches |= touch;
            }
        }
        touches
    }
}

fn register_touches(register: Register) -> Touches {
    if register.is_mm() || register.is_st() {
        Touches::X87
    } else if register.is_zmm() || register.is_k() || register.is_vector_register() && register.number() > 15
    {
        Touches::SSE | Touches::AVX | Touches::AVX512
    } else if register.is_ymm() {
        Touches::SSE | Touches::AVX
    } else if register.is_xmm() {
        Touches::SSE
    } else {
        Touches::empty()
    }
}
