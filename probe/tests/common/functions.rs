//! Functions in assembly.

/// Assembles functions: `function NAME` begins one, and `end NAME` ends it, behind which is `NAME_end`.
macro_rules! functions {
    ($($assembly:tt)*) => {
        std::arch::global_asm!(
            r#"
    .macro function name
    .globl \name
    .type \name, @function
    .p2align 4
\name:
    .endm
    .macro end name
    .size \name, . - \name
    .globl \name\()_end
\name\()_end:
    nop
    .endm

    .text
            "#,
            $($assembly)*
        );
    };
}
