//! What leaves user mode: system calls, software interrupts, and everything that only the kernel may do,
//! which is a fault (SDM volume 3, section 5.9).
//!
//! #UD comes before #GP, and both before any look at memory operands.

use iced_x86::Mnemonic;

use crate::context::{Context, Execute};
use crate::exception::Exception;
use crate::outcome::Outcome;
use crate::processor::{Hypervisor, Vendor};
use crate::registers::{Rflags, gpr};
use crate::reserved::LONGEST;
use crate::shape::row;
use crate::table::{Flags, Form, Row};

pub(super) static ROWS: &[Row] = &[
    row!(Syscall, Whole, Flags::empty(), syscall),
    row!(Sysenter, Select, Flags::empty(), select_sysenter),
    row!(Int, Whole, Flags::empty(), int),
    row!(Int1, Select, Flags::empty(), select_int1),
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
            Clac, Clrssbsy, Clui, Encls, Enclv, Eretu, Erets, Getsec, Loadiwkey, Mcommit, Monitor, Mwait,
            Pcommit, Psmash, Rdudbg, Rmpadjust, Rmpquery, Rmpupdate, Rsm, Seamcall, Seamops, Seamret,
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
    row!([Vmcall, Vmgexit, Vmmcall], Select, Flags::empty(), select_hypercall),
    // SGX enclaves and work queues cannot be entered for another; without them these are undefined.
    row!([Enclu, Enqcmd], Select, Flags::empty(), |_| None),
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

/// #UD.
pub(crate) fn undefined(_: &mut Context<'_>) -> Result<Outcome, Exception> {
    Err(Exception::InvalidOpcode)
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

/// AMD's processors know it in legacy mode only.
fn select_sysenter(form: &Form<'_>) -> Option<Execute> {
    match form.processor.vendor {
        Vendor::Amd => Some(undefined),
        Vendor::Intel => Some(|_| Ok(Outcome::Sysenter)),
    }
}

/// Linux opens the gates of 3 (#BP), 4 (#OF) and 0x80 (system calls) to user mode; for the others the
/// error code names the gate in the IDT.
fn int(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    const IDT: u16 = 1 << 1;
    match c.displaced.immediate as u8 {
        3 => Err(Exception::Breakpoint),
        number @ (4 | 0x80) => Ok(Outcome::Interrupt(number)),
        number => Err(Exception::GeneralProtection(u16::from(number) << 3 | IDT)),
    }
}

/// A trap. KVM intercepts it on AMD's processors, and injects it with the instruction's own address.
fn select_int1(form: &Form<'_>) -> Option<Execute> {
    Some(match (form.processor.vendor, form.processor.hypervisor) {
        (Vendor::Amd, Hypervisor::Kvm) => |c| {
            c.registers.rip = c.displaced.ip();
            Err(Exception::Debug)
        },
        _ => |_| Err(Exception::Debug),
    })
}

/// #UD without CR4.CET, else privileged. A thread with a shadow stack proves CR4.CET; one without proves
/// nothing.
fn select_wruss(form: &Form<'_>) -> Option<Execute> {
    fn wruss(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        if c.registers.ssp.is_some() { privileged(c) } else { Ok(Outcome::Native) }
    }
    Some(if form.processor.cet_ss { wruss } else { undefined })
}

/// Zen 3 and later check the privilege level first, whether secure nested paging is there or not.
fn select_pvalidate(form: &Form<'_>) -> Option<Execute> {
    let known = form.processor.vendor == Vendor::Amd && form.processor.family >= 0x19;
    Some(if known { privileged } else { undefined })
}

/// EFER.SVME decides between #UD and #GP, and user mode cannot see it; hypervisors always set it for
/// their guests.
fn select_svm(form: &Form<'_>) -> Option<Execute> {
    match (form.processor.vendor, form.processor.hypervisor) {
        (Vendor::Intel, _) => Some(undefined),
        (Vendor::Amd, Hypervisor::None) => None,
        (Vendor::Amd, _) => Some(privileged),
    }
}

/// With the extensions, whether a hypervisor is at work decides between #UD and #GP.
fn select_vmx(form: &Form<'_>) -> Option<Execute> {
    match form.processor.vmx {
        true => None,
        false => Some(undefined_unless_too_long(form)),
    }
}

/// #UD, or #GP for what is longer to the processor than it looks: AMD's processors look for the two immediates
/// of EXTRQ behind 0F 78 before they find it undefined.
pub(crate) fn undefined_unless_too_long(form: &Form<'_>) -> Execute {
    let longer = form.instruction.mnemonic() == Mnemonic::Vmread && form.processor.vendor == Vendor::Amd;
    if longer && form.instruction.len() + 2 > LONGEST { privileged } else { undefined }
}

/// Each vendor's own hypercall: KVM refuses it to user mode. The other vendor's is #UD to the processor,
/// and KVM treats VMCALL as privileged. Other hypervisors' answers are not known. Without one, whether
/// this system is a hypervisor itself decides between #UD and #GP for VMCALL.
fn select_hypercall(form: &Form<'_>) -> Option<Execute> {
    let amds = form.instruction.mnemonic() != Mnemonic::Vmcall;
    let own = amds == (form.processor.vendor == Vendor::Amd);
    match (form.processor.hypervisor, own) {
        (Hypervisor::None, _) if !amds && form.processor.vmx => None,
        (Hypervisor::None, _) => Some(undefined),
        (Hypervisor::Kvm, true) => Some(refused_hypercall),
        (Hypervisor::Kvm, false) if !amds => Some(privileged),
        _ => None,
    }
}

fn refused_hypercall(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    const EPERM: u64 = 1;
    c.registers.gpr[gpr::RAX] = EPERM.wrapping_neg();
    Ok(Outcome::Next)
}

/// The cryptography of VIA's processors.
fn select_padlock(form: &Form<'_>) -> Option<Execute> {
    match form.processor.vendor {
        Vendor::Amd => Some(undefined),
        Vendor::Intel => None,
    }
}
