//! What leaves user mode: system calls, software interrupts, and everything that only the kernel may do,
//! which is a fault (SDM volume 3, section 5.9).
//!
//! #UD comes before #GP, and both before any look at memory operands.

use iced_x86::{CpuidFeature, Mnemonic};

use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::decode::prefix::LONGEST;
use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::registers::{Rflags, gpr};
use crate::run::context::{Context, Execute};
use crate::run::row::Row;
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    row!(Syscall, Whole, Flags::empty(), syscall),
    row!(Sysenter, Select, Flags::empty(), select_sysenter),
    row!(Int, Whole, Flags::empty(), int),
    row!(Int1, Whole, Flags::empty(), int1),
    row!(Int3, Whole, Flags::empty(), |_| Err(Exception::Breakpoint)),
    row!([Ud0, Ud1, Ud2], Whole, Flags::empty(), undefined),
    row!([Cli, Sti, In, Out], Whole, Flags::empty(), sensitive),
    row!([Insb, Insw, Insd, Outsb, Outsw, Outsd], Whole, Flags::STRING, sensitive),
    row!(
        [
            Clts, Hlt, Hreset, Invd, Invlpg, Invlpgb, Invpcid, Lgdt, Lidt, Lkgs, Lldt, Lmsw, Ltr, Pbndkb,
            Pconfig, Rdmsr, Rdmsrlist, Swapgs, Sysexit, Sysexitq, Sysret, Sysretq, Tlbsync, Wbinvd, Wbnoinvd,
            Wrmsr, Wrmsrlist, Wrmsrns, Xrstors, Xrstors64, Xsaves, Xsaves64, Xsetbv, Enqcmds
        ],
        Whole,
        Flags::empty(),
        privileged
    ),
    // Without a feature that Linux gives no thread, or with one that outside the kernel's mode is undefined.
    row!(
        [
            Clac, Clrssbsy, Clui, Encls, Enclv, Eretu, Erets, Getsec, Getsecq, Loadiwkey, Mcommit, Monitor,
            Mwait, Pcommit, Psmash, Rdudbg, Rmpadjust, Rmpquery, Rmpupdate, Rsm, Seamcall, Seamops, Seamret,
            Senduipi, Setssbsy, Stac, Stui, Tdcall, Testui, Uiret, Wrudbg
        ],
        Whole,
        Flags::empty(),
        undefined
    ),
    row!([Wrussd, Wrussq], Select, Flags::empty(), select_wruss),
    row!(Pvalidate, Select, Flags::empty(), select_pvalidate),
    row!([Clgi, Invlpga, Skinit, Stgi, Vmload, Vmrun, Vmsave], Select, Flags::empty(), select_svm),
    row!(
        [
            Invept, Invvpid, Vmclear, Vmfunc, Vmlaunch, Vmptrld, Vmptrst, Vmread, Vmresume, Vmwrite, Vmxoff,
            Vmxon
        ],
        Select,
        Flags::empty(),
        select_vmx
    ),
    // The hypervisor answers the thread, or, without one, the thread learns whether it is #UD or #GP. Whether the
    // thread may use a work queue, its own PASID says. The key of Key Locker nobody can read.
    row!([Vmcall, Vmgexit, Vmmcall, Enqcmd], Whole, Flags::empty(), native),
    row!(
        [
            Aesenc128kl,
            Aesenc256kl,
            Aesdec128kl,
            Aesdec256kl,
            Aesencwide128kl,
            Aesencwide256kl,
            Aesdecwide128kl,
            Aesdecwide256kl,
            Encodekey128,
            Encodekey256
        ],
        Whole,
        Flags::empty(),
        native
    ),
    // SGX enclaves cannot be entered for another; without them it is undefined.
    row!(Enclu, Select, Flags::empty(), |_| None),
    row!(
        [
            Ccs_encrypt,
            Ccs_hash,
            Montmul,
            Undoc,
            Xcryptcbc,
            Xcryptcfb,
            Xcryptctr,
            Xcryptecb,
            Xcryptofb,
            Xsha1,
            Xsha256,
            Xsha512,
            Xsha512_alt,
            Xstore,
            Xstore_alt
        ],
        Select,
        Flags::empty(),
        select_padlock
    ),
];

/// #UD. Never inlined, so that it has one address, by which it is known.
#[inline(never)]
pub(crate) fn undefined(_: &mut Context<'_>) -> Result<Outcome, Exception> {
    Err(Exception::InvalidOpcode)
}

/// Only the thread itself can find out.
pub(crate) fn native(_: &mut Context<'_>) -> Result<Outcome, Exception> {
    Ok(Outcome::Native)
}

/// #GP(0), for an instruction of the kernel's.
pub(super) fn privileged(_: &mut Context<'_>) -> Result<Outcome, Exception> {
    Err(Exception::GeneralProtection(0))
}

/// Sensitive to IOPL, which Linux leaves at 0: `iopl` and `ioperm` work by the permission bitmap of the
/// thread, which is not known here.
fn sensitive(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    if c.registers.rflags.contains(Rflags::IOPL) { Ok(Outcome::Native) } else { privileged(c) }
}

/// The kernel's part is the executor's.
fn syscall(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    c.registers.gpr[gpr::RCX] = c.registers.rip;
    c.registers.gpr[gpr::R11] = c.registers.rflags.difference(Rflags::RF).bits();
    Ok(Outcome::Syscall)
}

/// Some processors know it in legacy mode only.
fn select_sysenter(form: &Form<'_>) -> Option<Execute> {
    match form.processor.is(Facts::SYSENTER_IS_UNDEFINED) {
        true => Some(undefined),
        false => Some(|_| Ok(Outcome::Sysenter)),
    }
}

/// Linux opens the gates of 3 (#BP), 4 (#OF) and 0x80 (system calls) to user mode; for the others the
/// error code names the gate in the IDT.
fn int(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    const IDT: u16 = 1 << 1;
    match c.decoded.immediate as u8 {
        3 => Err(Exception::Breakpoint),
        number @ (4 | 0x80) => Ok(Outcome::Interrupt(number)),
        number => Err(Exception::GeneralProtection(u16::from(number) << 3 | IDT)),
    }
}

/// A trap.
fn int1(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    if c.decoded.processor.is(Facts::INT1_LEAVES_RIP) {
        c.registers.rip = c.decoded.ip();
    }
    Err(Exception::Debug)
}

/// #UD without CR4.CET, else privileged. A thread with a shadow stack proves CR4.CET; one without proves
/// nothing.
fn select_wruss(form: &Form<'_>) -> Option<Execute> {
    fn wruss(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        if c.registers.ssp.is_some() { privileged(c) } else { Ok(Outcome::Native) }
    }
    Some(if form.processor.features.has(CpuidFeature::CET_SS) { wruss } else { undefined })
}

fn select_pvalidate(form: &Form<'_>) -> Option<Execute> {
    Some(if form.processor.is(Facts::PVALIDATE_IS_PRIVILEGED) { privileged } else { undefined })
}

/// EFER.SVME decides between #UD and #GP, and user mode cannot see it.
fn select_svm(form: &Form<'_>) -> Option<Execute> {
    let maybe = form.processor.features.has(CpuidFeature::SVM);
    Some(match form.processor.is(Facts::SVM_IS_PRIVILEGED) {
        true => privileged,
        false if maybe => native,
        false => undefined,
    })
}

/// With the extensions, whether a hypervisor is at work decides between #UD and #GP. #GP too for what is longer to
/// the processor than it looks.
pub(crate) fn select_vmx(form: &Form<'_>) -> Option<Execute> {
    Some(if form.processor.features.has(CpuidFeature::VMX) {
        native
    } else {
        undefined_unless_too_long(form)
    })
}

/// #UD, or #GP for what is longer to the processor than it looks.
pub(crate) fn undefined_unless_too_long(form: &Form<'_>) -> Execute {
    let vmread = form.instruction.mnemonic() == Mnemonic::Vmread;
    let longer = vmread && form.processor.is(Facts::VMREAD_HAS_IMMEDIATES);
    if longer && form.instruction.len() + 2 > LONGEST { privileged } else { undefined }
}

/// The cryptography of VIA's processors.
fn select_padlock(form: &Form<'_>) -> Option<Execute> {
    form.processor.is(Facts::PADLOCK_IS_UNDEFINED).then_some(undefined)
}
