//! Programs in C that go through the life of a reaper, and through what can be wrong with a call. Each
//! checks itself; see `tests/c/`.

mod support;

/// Builds and runs a program, and runs it once more under valgrind, with `checked_arguments`.
#[track_caller]
fn sound(program: &str, arguments: &[&str], checked_arguments: &[&str]) {
    let program = support::build(&format!("tests/c/{program}.c"));
    support::run(&program, arguments);
    support::run_checked(&program, checked_arguments);
}

#[test]
fn a_wrong_call_is_refused_and_changes_nothing() {
    sound("misuse", &[], &[]);
}

#[test]
fn a_callback_that_fails_is_kept_and_the_reaping_goes_on_as_the_manual_says() {
    sound("failures", &[], &[]);
}

#[test]
fn a_reaper_is_stopped_resumed_saved_and_replaced() {
    sound("going_on", &[], &[]);
}

#[test]
fn threads_share_a_reaper_and_lose_no_page() {
    sound("threads", &["300000"], &["3000"]);
}

#[test]
fn passes_ring_fulls_and_drains_allocate_nothing() {
    let wrapped = ["malloc", "calloc", "realloc", "posix_memalign"];
    let options = wrapped.map(|function| format!("-Wl,--wrap={function}"));
    let options = options.each_ref().map(String::as_str);
    let program = support::build_with("tests/c/no_allocation.c", &options);
    support::run(&program, &[]);
}
