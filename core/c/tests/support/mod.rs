//! Compiles C and C++ against the header and the library, and runs it.
// No test program uses all of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs};

/// What a warning is worth: the header must compile in any monitor.
const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

/// The standard library of Rust needs these, where they aren't part of libc.
const LIBRARIES: [&str; 3] = ["-lpthread", "-ldl", "-lm"];

/// Returns `path`, which is relative to this crate.
pub(crate) fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns a path for a file that a test makes.
pub(crate) fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Returns the static library that was built for this test.
pub(crate) fn library() -> PathBuf {
    let program = env::current_exe().unwrap();
    let directory = program.parent().unwrap();
    let built = fs::read_dir(directory).unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name()?.to_str()?;
        let is_library = name.starts_with("libdirty_ring_c") && name.ends_with(".a");
        is_library.then_some(path)
    });
    // Older ones are those of other features or compilers.
    built
        .max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap())
        .expect("cargo builds the static library for the tests")
}

/// Returns a compiler for `language`, as in `c11`, with all warnings.
fn compiler(language: &str) -> Command {
    let name = if language.starts_with("c++") {
        "c++"
    } else {
        "cc"
    };
    let mut command = Command::new(
        env::var_os("CC")
            .filter(|_| name == "cc")
            .unwrap_or(name.into()),
    );
    command.args(WARNINGS).arg(format!("-std={language}"));
    command.arg("-I").arg(here("include"));
    command
}

/// Checks that `source` compiles, as `language`.
#[track_caller]
pub(crate) fn compiles(source: &Path, language: &str) {
    let mut command = compiler(language);
    let kind = if language.starts_with("c++") {
        "c++"
    } else {
        "c"
    };
    succeeded(command.args(["-fsyntax-only", "-x", kind]).arg(source));
}

/// Compiles the program `source`, relative to this crate, and links the library; returns the program.
#[track_caller]
pub(crate) fn build(source: &str) -> PathBuf {
    build_with(source, &[])
}

/// Builds as [`build`] does, with `options` for the linker.
#[track_caller]
pub(crate) fn build_with(source: &str, options: &[&str]) -> PathBuf {
    // Tests build at the same time, and two of them the same source.
    static BUILT: AtomicU32 = AtomicU32::new(0);
    let number = BUILT.fetch_add(1, Ordering::Relaxed);
    let program = scratch(&format!("{}-{number}", source.replace(['/', '.'], "-")));
    let mut command = compiler("c11");
    command.args(["-g", "-o"]).arg(&program).arg(here(source));
    succeeded(command.arg(library()).args(LIBRARIES).args(options));
    program
}

/// Runs `program`; returns what it printed.
#[track_caller]
pub(crate) fn run(program: &Path, arguments: &[&str]) -> String {
    let output = succeeded(Command::new(program).args(arguments));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `program` under valgrind, where that is installed: no error, and no memory that is left.
#[track_caller]
pub(crate) fn run_checked(program: &Path, arguments: &[&str]) {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: valgrind is not installed");
        return;
    }
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--error-exitcode=99", "--leak-check=full"]);
    succeeded(command.arg(program).args(arguments));
}

#[track_caller]
fn succeeded(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{told}",
        output.status
    );
    output
}
