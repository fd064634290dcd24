//! The behaviours in which processors differ, each with a name.

use bitflags::bitflags;

bitflags! {
    /// What one processor does and another does not, where the manuals leave it open or say otherwise.
    ///
    /// Each was seen on the processors that [`Processor::zen_3`](super::Processor::zen_3),
    /// [`Processor::zen_5`](super::Processor::zen_5) and
    /// [`Processor::emerald_rapids`](super::Processor::emerald_rapids) describe, by the conformance suite; where a
    /// manual says it, the sentence names the place. "APM" is AMD's manual, "SDM" Intel's.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Facts: u64 {
        // Told by CPUID or by the system.

        /// SGDT, SIDT, SLDT, STR and SMSW fault in user mode, and the kernel answers in their place (SDM volume 3,
        /// section 2.5, CR4.UMIP).
        const UMIP = 1 << 0;
        /// XGETBV takes ECX = 1 (SDM volume 1, section 13.2).
        const XGETBV_OF_XINUSE = 1 << 1;
        /// FDP is written by instructions that raise an unmasked exception only (SDM volume 1, section 8.1.8).
        const FDP_EXCEPTION_ONLY = 1 << 2;
        /// A null selector clears the base of FS and GS (APM volume 3, CPUID Fn8000_0021_EAX).
        const NULL_SELECTOR_CLEARS_BASE = 1 << 3;
        /// MONITORX and MWAITX, which CPUID denies, do nothing: the hypervisor intercepts them before they look at
        /// memory.
        const HIDDEN_MONITORX_DOES_NOTHING = 1 << 4;
        /// INT1 leaves RIP at itself: the hypervisor intercepts it, and injects the exception so.
        const INT1_LEAVES_RIP = 1 << 5;
        /// The instructions of SVM are #GP to user mode and not #UD: EFER.SVME is set, as hypervisors do for their
        /// guests (APM volume 3, VMRUN).
        const SVM_IS_PRIVILEGED = 1 << 6;
        /// PVALIDATE looks at the privilege level before it looks for secure nested paging.
        const PVALIDATE_IS_PRIVILEGED = 1 << 7;

        // Decoding.

        /// With an operand-size prefix near branches are 16 bits wide, and far ones ignore REX.W (APM volume 3,
        /// "Near Branches in 64-Bit Mode"); others ignore the prefix in front of near branches.
        const OPERAND_SIZE_NARROWS_BRANCHES = 1 << 8;
        /// A repeat prefix of LOOPE or LOOPNE says which of the two it is.
        const LOOP_OBEYS_REPEAT = 1 << 9;
        /// F3 REX.B 90 is PAUSE; elsewhere it is XCHG of R8 and RAX.
        const PAUSE_IGNORES_REX_B = 1 << 10;
        /// MOVSXD with a 16-bit operand reads 32 bits.
        const MOVSXD_R16_READS_32_BITS = 1 << 11;
        /// The prefetches of 0F 0D are #UD with a register (APM volume 3, PREFETCH).
        const PREFETCH_OF_REGISTER_IS_UNDEFINED = 1 << 12;
        /// SYSENTER is #UD in 64-bit mode (APM volume 3, SYSENTER).
        const SYSENTER_IS_UNDEFINED = 1 << 13;
        /// Two immediates, those of EXTRQ, are looked for behind 0F 78 before it is found undefined.
        const VMREAD_HAS_IMMEDIATES = 1 << 14;
        /// CLZERO is #UD with a repeat prefix.
        const CLZERO_REFUSES_REPEAT = 1 << 15;
        /// What VIA's processors made cryptography of is #UD.
        const PADLOCK_IS_UNDEFINED = 1 << 16;

        // Addresses and alignment.

        /// An offset from FS or GS must be canonical by itself, and not only with the base.
        const SEGMENT_OFFSETS_ARE_CANONICAL = 1 << 17;
        /// RFLAGS.AC does not count for operands of more than 8 bytes, except where they must be aligned anyway.
        const WIDE_OPERANDS_IGNORE_AC = 1 << 18;
        /// #AC comes before #GP and #SS where only the end of an operand is not canonical.
        const ALIGNMENT_BEFORE_CANONICAL_END = 1 << 19;
        /// RFLAGS.AC wants operands of more than 16 bytes to be aligned to 16 only.
        const AC_WANTS_SIXTEEN_AT_MOST = 1 << 20;
        /// Of the elements of an operand that a mask chooses, RFLAGS.AC wants each to be aligned to its own size and no
        /// more.
        const AC_WANTS_ELEMENTS_ALIGNED = 1 << 21;
        /// The elements of an operand that a mask chooses fault in turn; elsewhere #GP and #SS of any come before #PF.
        const ELEMENTS_FAULT_IN_TURN = 1 << 22;
        /// The memory operands of SHA need not be aligned.
        const SHA_IGNORES_ALIGNMENT = 1 << 23;

        // Integer instructions.

        /// BSF and BSR clear CF, OF, SF and AF, and PF is that of the number (0 for a source of 0); elsewhere they
        /// leave them. The manuals call them undefined.
        const BIT_SCANS_WRITE_ALL_FLAGS = 1 << 24;
        /// LZCNT and TZCNT clear OF; elsewhere they leave it. The manuals call it undefined.
        const ZERO_COUNTS_CLEAR_OVERFLOW = 1 << 25;
        /// ANDN, BEXTR, BLSI, BLSMSK, BLSR and BZHI clear AF and PF. The manuals call them undefined: elsewhere PF is
        /// that of the result, and BEXTR sets AF.
        const BMI_CLEARS_UNDEFINED_FLAGS = 1 << 26;
        /// SHLD and SHRD of 16 bits by more than 16 go on with SRC again, elsewhere with DEST. The manuals call it
        /// undefined.
        const DOUBLE_SHIFT_REPEATS_SOURCE = 1 << 27;
        /// POP of FS and GS, and RETF, read selectors as two bytes; elsewhere in the size of the operand.
        const SELECTORS_ARE_TWO_BYTES = 1 << 28;
        /// RETF to an outer level looks for that level's SS and RSP before it is refused.
        const RETF_LOOKS_AT_OUTER_STACK = 1 << 29;
        /// IRET checks CS before it reads RSP and SS, under the AC of the flags that it loads, and checks RIP last.
        const IRET_CHECKS_CS_FIRST = 1 << 30;
        /// A near CALL to a target that is not canonical has stored the return address when it faults.
        const CALL_STORES_BEFORE_ITS_FAULT = 1 << 31;
        /// With a 32-bit address size, a repeated string instruction cuts RCX whatever comes of it, and MOVS and STOS
        /// cut their pointers too.
        const REPEAT_CUTS_REGISTERS = 1 << 32;
        /// A repeated CMPS or SCAS that faults leaves the flags as they were before the instruction (SDM volume 2,
        /// REP); elsewhere they are those of the last comparison.
        const REPEATED_COMPARISON_RESTORES_FLAGS = 1 << 33;
        /// MOVDIR64B reads its source before it looks at the alignment of its destination.
        const MOVDIR64B_READS_FIRST = 1 << 34;
        /// CMPS reads the operand at RSI before that at RDI.
        const CMPS_READS_ITS_SOURCE_FIRST = 1 << 35;

        // x87 and MMX.

        /// FOP is written by each waiting instruction; elsewhere by those that raise an unmasked exception only (SDM
        /// volume 1, section 8.1.9).
        const FOP_ALWAYS_WRITTEN = 1 << 36;
        /// FXSAVE and XSAVE write FOP, FIP and FDP as zeros while no unmasked exception is pending (APM volume 2,
        /// section 11.5.10).
        const X87_POINTERS_ARE_HIDDEN = 1 << 37;
        /// FXRSTOR64 and XRSTOR64 load all 64 bits of FDP; elsewhere as many as an address has, extended.
        const FDP_IS_LOADED_WHOLE = 1 << 38;
        /// A store of x87 that raises an unmasked exception does not look at its memory operand.
        const X87_STORE_RAISES_BEFORE_ITS_ACCESS = 1 << 39;
        /// Ten bytes are stored as eight and two: the first eight are there when the others fault.
        const M80_IS_STORED_IN_PARTS = 1 << 40;
        /// An MMX instruction that faults in storing its result has cleared TOP, and not yet set the tags.
        const MMX_STORE_CLEARS_TOP_BEFORE_ITS_FAULT = 1 << 41;

        // SSE, and XSAVE.

        /// Of the operand in memory of legacy PUNPCKLBW and its kin, and of the count in that of PSLLW and its kin, only
        /// the lower half must be canonical.
        const LOWER_HALVES_ARE_CHECKED_ALONE = 1 << 42;
        /// MASKMOVDQU accesses two halves of eight bytes, the upper one first.
        const MASKMOVDQU_STORES_HALVES = 1 << 43;
        /// DPPS adds each lane's product to its neighbour's, and then to each of these sums the other: which of several
        /// NaNs is the result differs between lanes. DPPD does the last step only. Elsewhere each lane gets the same.
        const DOT_PRODUCTS_EXCHANGE_LANES = 1 << 44;
        /// VFMULCPH and its kin set the flags of MXCSR, but raise #XM for none, masked or not.
        const COMPLEX_PRODUCTS_RAISE_NOTHING = 1 << 45;
        /// XSAVE and its kin look at the first four bytes under RFLAGS.AC, at the alignment, at the last byte and then
        /// at the first that is accessed; XRSTOR at the header before the last byte, at whatever is in the header after
        /// it, except of a compacted image, and of that at MXCSR when what it does not have is initial, but for PKRU, and
        /// x87 and XMM are loaded. The SDM (volume 1, section 13.7) leaves the order to the processor.
        const XSAVE_LOOKS_AT_THE_END_FIRST = 1 << 46;
        /// Of the component of PKRU, XSAVE and its kin write the four bytes that it has, not eight.
        const XSAVE_WRITES_FOUR_BYTES_OF_PKRU = 1 << 47;
        /// XINUSE may say of SSE and AVX that they are in use though all zero (SDM volume 1, section 13.6).
        const XINUSE_IS_CONSERVATIVE = 1 << 48;

        // AVX and AVX-512.

        /// A store of several elements under a mask that cannot be made names in CR2 the first byte of its first
        /// element, or, where only the page after it is at fault, the last byte of its last; elsewhere the first byte at
        /// fault.
        const MASKED_STORES_CHECK_THEIR_ENDS = 1 << 49;
        /// A gather under a vector as its mask leaves the mask's lanes that are not done as they were when it faults, and
        /// what lies above in the mask and in the destination; elsewhere the mask has become ones and zeros before
        /// anything is accessed.
        const GATHERS_TAKE_SIGNS_IN_TURN = 1 << 50;
        /// VCVTPS2PH raises what it raises before it looks at its memory operand.
        const PS2PH_RAISES_BEFORE_ITS_ACCESS = 1 << 51;
        /// Of a denormal VCVTPS2PH under an unmasked UE raises PE by what the result loses, as all do that make binary16.
        const HALVES_OF_DENORMALS_LOSE_PRECISION = 1 << 52;
        /// VREDUCE obeys FTZ whether UE is masked or not.
        const REDUCE_FLUSHES_UNMASKED_UNDERFLOW = 1 << 53;
        /// RFLAGS.AC does not count for VCVTPH2PS and VCVTPS2PH.
        const PH2PS_IGNORES_AC = 1 << 54;
    }
}

#[cfg(test)]
mod tests {
    use bitflags::Flags as _;

    use super::*;

    #[test]
    fn each_fact_has_a_bit_of_its_own() {
        let mut seen = Facts::empty();
        for (name, fact) in Facts::all().iter_names() {
            assert_eq!(fact.bits().count_ones(), 1, "{name}");
            assert!(!seen.intersects(fact), "{name}");
            seen |= fact;
        }
        assert_eq!(Facts::FLAGS.len() as u32, seen.bits().count_ones());
    }
}
