//! Processes that see other files than the command does: in a mount namespace of their own, on an overlay,
//! and with files that have been replaced.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::unistd::Uid;
use scratch::{Scratch, run};
use serde_json::Value;
use target::{ANSWERS, STEPLESS, Target};

const NOBODY: u32 = 65534;

/// Says why a test cannot run where mounts or other users are not ours to make.
fn skips() -> bool {
    let can = Uid::effective().is_root()
        && Command::new("unshare").args(["-m", "true"]).output().is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("skipped: only root can make mount namespaces and become another user");
    }
    !can
}

/// `sh` in a mount namespace of its own.
fn apart(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-e", "-c", script]);
    command
}

/// Starts the command on a probe, has it hit once, and returns what was counted.
fn one_hit(stepless: &mut Command, target: &mut Target) -> Value {
    one_hit_at("answers:leaf", stepless, target)
}

/// The same for another place.
fn one_hit_at(place: &str, stepless: &mut Command, target: &mut Target) -> Value {
    let mut child: Child = stepless.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    target.wait_for_probe_at(place, &mut child);
    target.ask();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    document["probes"][0]["hits"].clone()
}

/// By a process of its own: what has been written by this one may be open still in a child of another test,
/// and cannot be executed then.
fn duplicate(from: &Path, to: &Path) {
    run(Command::new("cp").arg(from).arg(to));
}

/// The command as somebody without privileges may run it.
fn as_nobody(scratch: &Scratch) -> Command {
    let copy = scratch.path("stepless");
    if !copy.exists() {
        duplicate(Path::new(STEPLESS), &copy);
    }
    let mut command = Command::new(copy);
    command.uid(NOBODY).gid(NOBODY).stdin(Stdio::null());
    command
}

/// Whether one process of a user may not trace another of the same user.
fn forbids_tracing() -> bool {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    let forbids = scope.is_ok_and(|scope| scope.trim() != "0");
    if forbids {
        eprintln!("skipped: kernel.yama.ptrace_scope keeps users from tracing their processes");
    }
    forbids
}

/// Two file systems give their files the same inode numbers, and mount them at the same place.
#[test]
fn a_file_of_the_same_path_and_inode_number_is_another_file() {
    if skips() {
        return;
    }
    let scratch = Scratch::new();
    let real = scratch.compile("real", &format!("void only_inside(void) {{}}\n{ANSWERS}"), &[]);
    let other = ANSWERS.replace("int main", "int longer(int x) { return leaf(leaf(x)) * 7; }\nint main");
    let other = other.replace("int counter;", "int counter; int before(int x) { return x % 1234567; }");
    let decoy = scratch.compile("decoy", &format!("void only_outside(void) {{}}\n{other}"), &[]);
    let place = scratch.path("place");
    std::fs::create_dir(&place).unwrap();
    let mount = |file: &Path| {
        let (file, place) = (file.display(), place.display());
        format!("mount -t tmpfs none {place}; cp {file} {place}/answers")
    };
    let program = place.join("answers");
    let mut target = Target::start(&mut apart(&format!("{}; exec {}", mount(&real), program.display())));
    let maps = probe::maps::read(target.child.id().cast_signed()).unwrap();
    let inode = maps.iter().find(|mapping| mapping.file() == Some(&program)).unwrap().inode;
    let stepless = |arguments: &str| {
        let program = program.display();
        let same = format!("[ $(stat -c %i {program}) = {inode} ] || exit 77");
        apart(&format!("{}; {same}; exec {STEPLESS} {arguments}", mount(&decoy)))
    };
    let pid = target.pid();
    let listed = stepless(&format!("list -p {pid} only_*")).output().unwrap();
    if listed.status.code() == Some(77) {
        eprintln!("skipped: this kernel numbers the files of all tmpfs together");
        return target.finish();
    }
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("only_inside") && !listed.contains("only_outside"), "{listed}");
    for probe in [format!("{}:leaf", program.display()), "answers:leaf".to_owned()] {
        let mut stat = stepless(&format!("stat --json --limit 1 -e {probe} -p {pid}"));
        assert_eq!(one_hit(&mut stat, &mut target), 1, "{probe}");
    }
    target.finish();
}

/// With a root directory of its own, or one of the whole mount namespace.
#[test]
fn a_probe_names_a_file_as_the_process_sees_it() {
    if skips() {
        return;
    }
    let scratch = Scratch::new();
    let root = scratch.path("root");
    std::fs::create_dir_all(root.join("there")).unwrap();
    std::fs::create_dir(root.join("old")).unwrap();
    let program = scratch.compile("answers", ANSWERS, &["-static"]);
    duplicate(&program, &root.join("there/answers"));
    std::os::unix::fs::symlink("/there/answers", root.join("link")).unwrap();
    // What links lead to must be looked up from that root, too.
    assert!(!Path::new("/there").exists());
    let directory = root.display();
    let chroot = format!("exec chroot {directory} /there/answers");
    let pivot = format!("mount --bind {directory} {directory}; cd {directory}; pivot_root . old");
    let pivot = format!("{pivot}; exec /there/answers");
    for script in [chroot, pivot] {
        let mut target = Target::start(&mut apart(&script));
        let pid = target.pid();
        for probe in ["/there/answers:leaf", "/link:leaf", "answers:leaf"] {
            let arguments = ["stat", "--json", "--limit", "1", "-e", probe, "-p", &pid];
            assert_eq!(one_hit(Command::new(STEPLESS).args(arguments), &mut target), 1, "{script}: {probe}");
        }
        let output =
            Command::new(STEPLESS).args(["stat", "-e", "/there/nothing:leaf", "-p", &pid]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        target.finish();
    }
}

/// There the kernel tells another device in the maps than of the file, so the contents decide.
#[test]
fn a_file_on_an_overlay_is_known_by_its_contents() {
    if skips() || forbids_tracing() {
        return;
    }
    for flags in [&["-Wl,--build-id"][..], &["-Wl,--build-id=none"]] {
        let scratch = Scratch::new();
        for directory in ["lower", "upper", "merged"] {
            std::fs::create_dir(scratch.path(directory)).unwrap();
        }
        let program = scratch.compile("answers", ANSWERS, flags);
        std::fs::rename(program, scratch.path("lower/answers")).unwrap();
        let script = "cd $DIR; mount -t tmpfs none upper; mkdir upper/data upper/work; chmod 755 upper; \
             mount -t overlay overlay -o lowerdir=lower,upperdir=upper/data,workdir=upper/work merged || exit 77; \
             cd /; exec setpriv --reuid 65534 --regid 65534 --clear-groups $DIR/merged/answers";
        let script = script.replace("$DIR", &scratch.path("").display().to_string());
        let mounts = apart(&script.replace("exec", "exit; exec")).output().unwrap();
        if mounts.status.code() == Some(77) {
            eprintln!("skipped: no overlay can be mounted: {}", String::from_utf8_lossy(&mounts.stderr));
            return;
        }
        let mut target = Target::start(&mut apart(&script));
        let arguments = ["stat", "--json", "--limit", "1", "-e", "answers:leaf", "-p", &target.pid()];
        assert_eq!(one_hit(as_nobody(&scratch).args(arguments), &mut target), 1, "{flags:?}");
        target.finish();
    }
}

#[track_caller]
fn replaced(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("replaced") && stderr.lines().count() == 1, "{stderr}");
}

/// Root reads it all the same; others only if it is the program.
#[test]
fn a_file_that_was_replaced_is_never_taken_for_the_one_that_is_mapped() {
    if skips() || forbids_tracing() {
        return;
    }
    let scratch = Scratch::new();
    let (library, main) = ANSWERS.split_once("int main").unwrap();
    let library = library.replace("#include <stdio.h>", "");
    let flags = ["-shared", "-fPIC", "-Wl,-soname,libleaf.so"];
    let object = scratch.compile("libleaf.so", &library, &flags);
    let source = format!("#include <stdio.h>\nint leaf(int);\nint own;\nint main{main}");
    let search = format!("-Wl,-rpath,{}", scratch.path("").display());
    let program = scratch.compile("answers", &source, &[object.to_str().unwrap(), &search]);
    let mut target = Target::start(Command::new(&program).uid(NOBODY).gid(NOBODY));
    let shifted = library.replace("int counter;", "int counter; int before(int x) { return x % 1234567; }");
    for file in [&object, &program] {
        std::fs::remove_file(file).unwrap();
    }
    scratch.compile("libleaf.so", &shifted, &flags);
    let moved = format!("int before(int x) {{ return x % 1234567; }}\n{source}");
    scratch.compile("answers", &moved, &[object.to_str().unwrap(), &search]);
    let pid = target.pid();
    let text = target.text();
    for probe in ["libleaf.so:leaf", &format!("{}:leaf", object.display())] {
        replaced(&as_nobody(&scratch).args(["stat", "-e", probe, "-p", &pid]).output().unwrap());
    }
    assert_eq!(target.text(), text);
    let listed = as_nobody(&scratch).args(["list", "-p", &pid, "main"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout).matches(" main").count(), 1, "{listed:?}");
    let arguments = ["stat", "--json", "--limit", "1", "-e", "libleaf.so:leaf", "-p", &pid];
    assert_eq!(one_hit_at("libleaf.so:leaf", Command::new(STEPLESS).args(arguments), &mut target), 1);
    target.finish();
}

#[test]
fn the_code_that_the_kernel_provides_has_names() {
    let scratch = Scratch::new();
    let source = "#include <time.h>\nint main(void) { struct timespec t; \
         for (int i = 0; i < 5; i++) clock_gettime(CLOCK_MONOTONIC, &t); return 0; }";
    let program = scratch.compile("clock", source, &[]);
    for probe in ["[vdso]:clock_gettime", "linux-vdso.so.1:clock_gettime"] {
        let arguments = ["stat", "--json", "-e", probe, "--", program.to_str().unwrap()];
        let output = Command::new(STEPLESS).args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let document: Value = serde_json::from_str(&stderr).unwrap_or_else(|_| panic!("{stderr}"));
        assert!(document["probes"][0]["hits"].as_u64().unwrap() >= 5, "{stderr}");
    }
    run(&mut Command::new(program));
}

#[test]
fn who_may_not_trace_a_process_is_told_what_forbids_it() {
    if skips() {
        return;
    }
    let scratch = Scratch::new();
    let program = scratch.compile("answers", ANSWERS, &[]);
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let restricted = matches!(scope.trim(), "1" | "2" | "3");
    // With Yama, not even a process of the same user that is nobody's child.
    let mut command = Command::new(&program);
    if restricted {
        command.uid(NOBODY).gid(NOBODY);
    }
    let target = Target::start(&mut command);
    let output =
        as_nobody(&scratch).args(["stat", "-e", "answers:leaf", "-p", &target.pid()]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = match restricted {
        true => format!("(kernel.yama.ptrace_scope is {}", scope.trim()),
        false => "run as its owner or as root".to_owned(),
    };
    assert!(output.status.code() == Some(2) && told.contains(&expected), "{:?} {told}", output.status);
    target.finish();
}
